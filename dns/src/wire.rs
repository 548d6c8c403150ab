//! From an answer to the records that hickory encodes.

use std::sync::Arc;

use hickory_proto::{
    ProtoError,
    rr::{
        Name, RData, Record, RecordType,
        rdata::{A, AAAA, CNAME, HINFO, MX, NS, NULL, SOA, TXT},
    },
    serialize::binary::BinEncodable,
};
use meridian_core::{
    name::DnsName,
    snapshot::{RecordData, Soa},
    zone::NameKey,
};

use crate::answer::{Data, Entry, Owner};

/// Longest character string of a TXT record (RFC 1035 section 3.3).
const MAX_STRING: usize = 255;

/// Bytes of a record beside its owner and data: type, class, TTL, length.
const RECORD_BYTES: usize = 10;

/// The key to look `name` up by.
#[must_use]
pub fn key_of(name: &Name) -> NameKey {
    NameKey::from_labels(name.iter())
}

/// The records of one section. `question` is the name as it was asked for.
///
/// # Errors
/// If a name cannot be encoded, which the snapshot's own validation excludes.
pub fn records(entries: &[Entry], question: &Name) -> Result<Vec<Record>, ProtoError> {
    entries
        .iter()
        .map(|entry| {
            let owner = match &entry.owner {
                Owner::Question => question.clone(),
                Owner::Name(owner) => name(owner)?,
            };
            Ok(Record::from_rdata(owner, entry.ttl, data(&entry.data)?))
        })
        .collect()
}

/// An upper bound of what `records` take in a message: as if no name was compressed.
#[must_use]
pub fn size_bound(records: &[Record]) -> usize {
    let size = |record: &Record| {
        let data = record.data.to_bytes().map_or(usize::from(u16::MAX), |bytes| bytes.len());
        record.name.len() + RECORD_BYTES + data
    };
    records.iter().map(size).sum()
}

fn name(name: &DnsName) -> Result<Name, ProtoError> {
    Name::from_labels(name.labels().map(str::as_bytes))
}

fn data(data: &Data) -> Result<RData, ProtoError> {
    Ok(match data {
        Data::Record(record) => static_data(record)?,
        Data::Soa(fields) => RData::SOA(soa(fields)?),
        // RFC 8482 section 4.2: the CPU field names the RFC, the OS field is empty.
        Data::Any => RData::HINFO(HINFO::new("RFC8482".into(), String::new())),
    })
}

fn static_data(data: &RecordData) -> Result<RData, ProtoError> {
    Ok(match data {
        RecordData::A(address) => RData::A(A(*address)),
        RecordData::Aaaa(address) => RData::AAAA(AAAA(*address)),
        RecordData::Cname(target) => RData::CNAME(CNAME(name(target)?)),
        RecordData::Ns(host) => RData::NS(NS(name(host)?)),
        RecordData::Mx { preference, exchange } => RData::MX(MX::new(*preference, name(exchange)?)),
        RecordData::Txt(strings) => RData::TXT(TXT::from_bytes(character_strings(strings))),
        RecordData::Caa { flags, tag, value } => {
            // RFC 8659 section 4.1. Written by hand: hickory's type parses issuers and refuses others.
            let mut bytes = vec![*flags, u8::try_from(tag.len()).unwrap_or(u8::MAX)];
            bytes.extend(tag.bytes().take(MAX_STRING));
            bytes.extend(value.bytes());
            RData::Unknown { code: RecordType::CAA, rdata: NULL::with(bytes) }
        }
    })
}

/// Strings that are too long for one are cut into several; who reads TXT joins them (RFC 7208 section
/// 3.3 for the best-known reader).
fn character_strings(strings: &[Arc<str>]) -> Vec<&[u8]> {
    let mut cut: Vec<&[u8]> = Vec::new();
    for text in strings {
        if text.is_empty() {
            cut.push(&[]);
        }
        cut.extend(text.as_bytes().chunks(MAX_STRING));
    }
    cut
}

fn soa(soa: &Soa) -> Result<SOA, ProtoError> {
    let seconds = |value: u32| i32::try_from(value).unwrap_or(i32::MAX);
    Ok(SOA::new(
        name(&soa.mname)?,
        name(&soa.rname)?,
        soa.serial,
        seconds(soa.refresh),
        seconds(soa.retry),
        seconds(soa.expire),
        soa.minimum,
    ))
}
