//! DnsZone to a zone, its static records parsed from presentation format (RFC 1035 section 5.1).

use std::{collections::BTreeMap, sync::Arc};

use meridian_api::dns_zone as api;
use meridian_core::{
    id::ClusterName,
    index::{Admits, ZoneFact},
    name::DnsName,
    snapshot::{GeoOverride, GeoSource, NameServer, Record, RecordData, Soa, Zone},
};

/// TTL of SOA and NS records, in seconds.
const SOA_TTL: u32 = 3600;
/// A character string holds at most this many bytes.
const MAX_STRING: usize = 255;

/// The zone by the object's name; without facts when its domain is no name. Whatever else cannot be read
/// is left out and listed in [`ZoneFact::faults`].
#[must_use]
pub fn facts(object: &api::DnsZone) -> Option<(Arc<str>, Option<ZoneFact>)> {
    let name: Arc<str> = object.metadata.name.as_deref()?.into();
    let spec = &object.spec;
    let Ok(domain) = spec.domain.parse::<DnsName>() else { return Some((name, None)) };
    let mut faults = Vec::new();
    let name_servers = name_servers(spec, &mut faults);
    let serial = object.status.as_ref().and_then(|status| status.serial);
    let serial = serial.and_then(|serial| u32::try_from(serial).ok()).unwrap_or_default();
    let Some(soa) = soa(spec, &domain, &name_servers, serial, &mut faults) else { return Some((name, None)) };
    let zone = Zone {
        records: records(spec, &domain, &mut faults),
        overrides: overrides(spec, &mut faults),
        names: BTreeMap::new(),
        domain,
        soa,
        name_servers,
    };
    let admits = Admits {
        all: spec.allowed_namespaces.all,
        names: spec.allowed_namespaces.names.iter().cloned().collect(),
    };
    let fact = ZoneFact {
        created: super::created_of(&object.metadata),
        zone,
        admits,
        federation: spec.federation_name.as_deref().map(Arc::from),
        ttl: seconds(spec.ttl),
        faults,
    };
    Some((name, Some(fact)))
}

fn seconds(value: i32) -> u32 {
    u32::try_from(value).unwrap_or_default()
}

/// Keeps what can be read and notes what cannot.
fn noted<T, E: std::fmt::Display>(read: Result<T, E>, field: &str, faults: &mut Vec<String>) -> Option<T> {
    read.map_err(|error| faults.push(format!("{field}: {error}"))).ok()
}

fn name_servers(spec: &api::DnsZoneSpec, faults: &mut Vec<String>) -> Vec<NameServer> {
    let mut servers = Vec::new();
    for (position, server) in spec.name_servers.iter().enumerate() {
        let field = format!("spec.nameServers[{position}]");
        let Some(name) = noted(server.name.parse(), &format!("{field}.name"), faults) else { continue };
        let addresses = server.addresses.iter().filter_map(|text| {
            let read = text.parse().map_err(|_| format!("{text:?} is not an IP address"));
            noted(read, &format!("{field}.addresses"), faults)
        });
        let addresses = addresses.collect();
        servers.push(NameServer { name, addresses });
    }
    servers
}

/// None when no name for the primary server or the mailbox can be had.
fn soa(
    spec: &api::DnsZoneSpec,
    domain: &DnsName,
    servers: &[NameServer],
    serial: u32,
    faults: &mut Vec<String>,
) -> Option<Soa> {
    let soa = &spec.soa;
    let declared = |text: &Option<String>, field: &str, faults: &mut Vec<String>| {
        text.as_deref().and_then(|text| noted(text.parse::<DnsName>(), field, faults))
    };
    let mname = declared(&soa.mname, "spec.soa.mname", faults)
        .or_else(|| servers.first().map(|server| server.name.clone()))
        .or_else(|| noted(domain.child("ns"), "spec.domain", faults))?;
    let rname = declared(&soa.rname, "spec.soa.rname", faults)
        .or_else(|| noted(domain.child("hostmaster"), "spec.domain", faults))?;
    Some(Soa {
        mname,
        rname,
        serial,
        refresh: seconds(soa.refresh),
        retry: seconds(soa.retry),
        expire: seconds(soa.expire),
        minimum: seconds(soa.minimum),
        ttl: SOA_TTL,
    })
}

fn records(spec: &api::DnsZoneSpec, domain: &DnsName, faults: &mut Vec<String>) -> Vec<Record> {
    let mut records = Vec::new();
    for (position, set) in spec.records.iter().enumerate() {
        let field = format!("spec.records[{position}]");
        let owner = if set.name == "@" { Ok(domain.clone()) } else { domain.child(&set.name) };
        let Some(name) = noted(owner, &format!("{field}.name"), faults) else { continue };
        for value in &set.values {
            let read = data(set.type_, value);
            if let Some(data) = noted(read, &format!("{field}.values"), faults) {
                records.push(Record { name: name.clone(), ttl: seconds(set.ttl), data });
            }
        }
    }
    records
}

fn data(type_: api::RecordType, value: &str) -> Result<RecordData, String> {
    let name = |text: &str| text.parse::<DnsName>().map_err(|error| error.to_string());
    let wrong = |what: &str| format!("{value:?} is not {what}");
    match type_ {
        api::RecordType::A => value.parse().map(RecordData::A).map_err(|_| wrong("an IPv4 address")),
        api::RecordType::Aaaa => value.parse().map(RecordData::Aaaa).map_err(|_| wrong("an IPv6 address")),
        api::RecordType::Cname => name(value).map(RecordData::Cname),
        api::RecordType::Ns => name(value).map(RecordData::Ns),
        api::RecordType::Mx => {
            let (preference, exchange) =
                value.trim().split_once(char::is_whitespace).ok_or_else(|| wrong("PREFERENCE EXCHANGE"))?;
            let preference = preference.parse().map_err(|_| wrong("PREFERENCE EXCHANGE"))?;
            Ok(RecordData::Mx { preference, exchange: name(exchange.trim())? })
        }
        api::RecordType::Txt => strings(value).map(RecordData::Txt),
        api::RecordType::Caa => {
            let mut parts = value.trim().splitn(3, char::is_whitespace);
            let (Some(flags), Some(tag), Some(text)) = (parts.next(), parts.next(), parts.next()) else {
                return Err(wrong("FLAGS TAG VALUE"));
            };
            let flags = flags.parse().map_err(|_| wrong("FLAGS TAG VALUE"))?;
            let text: String = strings(text.trim())?.concat();
            Ok(RecordData::Caa { flags, tag: tag.to_ascii_lowercase().into(), value: text.into() })
        }
    }
}

/// Character strings. A value that begins with a quote is read as a sequence of quoted strings; any other
/// is one string as it stands, blanks included, because that is how people write SPF into YAML. A string
/// that is too long is cut into several, which readers join again.
fn strings(value: &str) -> Result<Vec<Arc<str>>, String> {
    let whole = if value.starts_with('"') { quoted(value)? } else { vec![value.to_owned()] };
    let mut strings: Vec<Arc<str>> = Vec::new();
    for text in whole {
        let mut rest = text.as_str();
        while rest.len() > MAX_STRING {
            let mut cut = MAX_STRING;
            while !rest.is_char_boundary(cut) {
                cut -= 1;
            }
            let (head, tail) = rest.split_at(cut);
            strings.push(head.into());
            rest = tail;
        }
        strings.push(rest.into());
    }
    Ok(strings)
}

fn quoted(value: &str) -> Result<Vec<String>, String> {
    let mut strings = Vec::new();
    let mut characters = value.chars();
    while let Some(next) = characters.next() {
        if next.is_whitespace() {
            continue;
        }
        if next != '"' {
            return Err(format!("{value:?} has text outside its quotes"));
        }
        let mut text = String::new();
        loop {
            match characters.next() {
                Some('"') => break,
                Some('\\') => text
                    .push(escaped(&mut characters).ok_or_else(|| format!("{value:?} has a wrong escape"))?),
                Some(other) => text.push(other),
                None => return Err(format!("{value:?} has an open quote")),
            }
        }
        strings.push(text);
    }
    Ok(strings)
}

/// `\DDD` for a byte below 128, else the character itself.
fn escaped(characters: &mut std::str::Chars<'_>) -> Option<char> {
    let first = characters.next()?;
    let Some(hundreds) = first.to_digit(10) else { return Some(first) };
    let tens = characters.next()?.to_digit(10)?;
    let ones = characters.next()?.to_digit(10)?;
    u8::try_from(hundreds * 100 + tens * 10 + ones).ok().filter(u8::is_ascii).map(char::from)
}

fn overrides(spec: &api::DnsZoneSpec, faults: &mut Vec<String>) -> Vec<GeoOverride> {
    let mut overrides = Vec::new();
    for (position, entry) in spec.overrides.iter().enumerate() {
        let field = format!("spec.overrides[{position}]");
        let source = match (&entry.cidr, &entry.country) {
            (Some(cidr), _) => noted(cidr.parse(), &format!("{field}.cidr"), faults).map(GeoSource::Cidr),
            (None, Some(country)) => {
                noted(country.parse(), &format!("{field}.country"), faults).map(GeoSource::Country)
            }
            (None, None) => None,
        };
        if let Some(source) = source {
            let clusters = entry.clusters.iter().map(|name| ClusterName::from(name.as_str())).collect();
            overrides.push(GeoOverride { source, clusters });
        }
    }
    overrides
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn zone(change: Value) -> ZoneFact {
        let mut spec = json!({"domain": "example.org", "nameServers": [{"name": "ns1.example.org", "addresses": ["192.0.2.53"]}]});
        json_patch::merge(&mut spec, &change);
        let object = json!({"apiVersion": "meridian.io/v1alpha1", "kind": "DnsZone", "metadata": {"name": "z"}, "spec": spec,
            "status": {"serial": 17}});
        facts(&serde_json::from_value(object).expect("a DnsZone")).expect("a name").1.expect("facts")
    }

    fn record(type_: &str, value: &str) -> Result<RecordData, String> {
        let records = json!([{"name": "x", "type": type_, "values": [value]}]);
        let mut fact = zone(json!({"records": records}));
        fact.zone.records.pop().map(|record| record.data).ok_or_else(|| fact.faults.concat())
    }

    fn name(text: &str) -> DnsName {
        text.parse().expect("a name")
    }

    #[test]
    fn soa_is_completed_from_servers_and_domain_and_keeps_the_published_serial() {
        let soa = zone(json!({})).zone.soa;
        assert_eq!((soa.mname, soa.rname), (name("ns1.example.org"), name("hostmaster.example.org")));
        assert_eq!(soa.serial, 17);
    }

    #[test]
    fn records_are_relative_to_the_zone() {
        let records = json!([{"name": "@", "type": "A", "values": ["192.0.2.1"]}, {"name": "*.w", "type": "A", "values": ["192.0.2.2"]}]);
        let fact = zone(json!({"records": records}));
        let owners: Vec<String> = fact.zone.records.iter().map(|record| record.name.to_string()).collect();
        assert_eq!(owners, ["example.org", "*.w.example.org"]);
    }

    #[test]
    fn every_type_is_read_from_presentation_format() {
        assert_eq!(record("AAAA", "2001:db8::1"), Ok(RecordData::Aaaa("2001:db8::1".parse().expect("IPv6"))));
        assert_eq!(record("CNAME", "a.example.net."), Ok(RecordData::Cname(name("a.example.net"))));
        let exchange = name("mail.example.net");
        assert_eq!(record("MX", "10 mail.example.net."), Ok(RecordData::Mx { preference: 10, exchange }));
        let caa = RecordData::Caa { flags: 0, tag: "issue".into(), value: "ca.example.net".into() };
        assert_eq!(record("CAA", "0 issue \"ca.example.net\""), Ok(caa));
    }

    #[test]
    fn text_is_one_string_unless_it_is_quoted() {
        let strings = |parts: &[&str]| RecordData::Txt(parts.iter().map(|part| Arc::from(*part)).collect());
        assert_eq!(record("TXT", "v=spf1 -all"), Ok(strings(&["v=spf1 -all"])));
        assert_eq!(record("TXT", r#""a b" "c\"\065""#), Ok(strings(&["a b", "c\"A"])));
        assert!(record("TXT", "\"open").is_err());
        let Ok(RecordData::Txt(parts)) = record("TXT", &"x".repeat(600)) else { panic!("text") };
        assert_eq!(parts.iter().map(|part| part.len()).collect::<Vec<_>>(), [255, 255, 90]);
    }

    #[test]
    fn wrong_value_names_its_field_and_leaves_the_rest() {
        let records = json!([
            {"name": "good", "type": "A", "values": ["192.0.2.1"]},
            {"name": "bad", "type": "A", "values": ["not an address"]},
        ]);
        let fact = zone(json!({"records": records}));
        assert_eq!(fact.zone.records.len(), 1);
        assert!(
            fact.faults[0].contains("spec.records[1].values") && fact.faults[0].contains("not an address")
        );
    }

    #[test]
    fn overrides_are_networks_or_countries() {
        let overrides =
            json!([{"cidr": "10.0.0.0/8", "clusters": ["eu"]}, {"country": "DE", "clusters": ["eu"]}]);
        let sources: Vec<GeoSource> = zone(json!({"overrides": overrides}))
            .zone
            .overrides
            .into_iter()
            .map(|entry| entry.source)
            .collect();
        let expected = [
            GeoSource::Cidr("10.0.0.0/8".parse().expect("a network")),
            GeoSource::Country("DE".parse().expect("a country")),
        ];
        assert_eq!(sources, expected);
    }
}
