//! EDNS Client Subnet (RFC 7871), read strictly from the bytes of a query.
//!
//! The message decoder is lenient where the RFC asks for FORMERR (host bits, wrong address length,
//! a scope in a query), so the option is read here from the raw message.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// Longest scope and longest looked-up prefix for IPv4 (RFC 7871 section 11.1 for the privacy side).
pub const MAX_PREFIX_V4: u8 = 24;

/// The same for IPv6.
pub const MAX_PREFIX_V6: u8 = 56;

const TYPE_OPT: u16 = 41;
const OPTION_CLIENT_SUBNET: u16 = 8;
const HEADER_BYTES: usize = 12;

/// A client subnet as a query carries it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientSubnet {
    /// The network; its prefix length is SOURCE PREFIX-LENGTH. Length 0 means "do not use my address".
    pub network: IpNet,
}

/// An option that must be answered with FORMERR.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// SCOPE PREFIX-LENGTH must be 0 in queries.
    #[error("the scope of a client subnet must be 0 in a query")]
    Scope,
    /// SOURCE PREFIX-LENGTH exceeds the family's address length.
    #[error("the source prefix of a client subnet exceeds the address")]
    Source,
    /// ADDRESS has not exactly the octets that the source prefix needs.
    #[error("the address of a client subnet has a wrong length")]
    Length,
    /// Bits beyond the source prefix are set.
    #[error("the address of a client subnet has bits beyond its source prefix")]
    HostBits,
    /// The family is neither IPv4 nor IPv6.
    #[error("the family of a client subnet is unknown")]
    Family,
    /// There are several such options.
    #[error("there is more than one client subnet")]
    Repeated,
    /// The message or the OPT record ends too early.
    #[error("the message ends inside a record")]
    Truncated,
}

/// The client subnet of the query in `message`, if it carries one.
///
/// # Errors
/// [`Malformed`]: answer FORMERR.
pub fn read(message: &[u8]) -> Result<Option<ClientSubnet>, Malformed> {
    let Some(mut options) = options(message)? else { return Ok(None) };
    let mut found = None;
    while !options.is_empty() {
        let code = take_u16(&mut options)?;
        let length = usize::from(take_u16(&mut options)?);
        let value = take(&mut options, length)?;
        if code != OPTION_CLIENT_SUBNET {
            continue;
        }
        if found.replace(subnet(value)?).is_some() {
            return Err(Malformed::Repeated);
        }
    }
    Ok(found)
}

fn subnet(mut value: &[u8]) -> Result<ClientSubnet, Malformed> {
    let family = take_u16(&mut value)?;
    let &[source, scope] = take(&mut value, 2)? else { return Err(Malformed::Truncated) };
    let bits = match family {
        1 => 32,
        2 => 128,
        _ => return Err(Malformed::Family),
    };
    if scope != 0 {
        return Err(Malformed::Scope);
    }
    if source > bits {
        return Err(Malformed::Source);
    }
    if value.len() != usize::from(source).div_ceil(8) {
        return Err(Malformed::Length);
    }
    let mut octets = [0; 16];
    octets[..value.len()].copy_from_slice(value);
    let address = if bits == 32 {
        let [a, b, c, d, ..] = octets;
        IpAddr::V4(Ipv4Addr::new(a, b, c, d))
    } else {
        IpAddr::V6(Ipv6Addr::from(octets))
    };
    let network = IpNet::new(address, source).map_err(|_| Malformed::Source)?;
    if network.trunc() != network {
        return Err(Malformed::HostBits);
    }
    Ok(ClientSubnet { network })
}

/// RDATA of the first OPT record, if there is one.
fn options(message: &[u8]) -> Result<Option<&[u8]>, Malformed> {
    let counts: Vec<u16> = message
        .get(4..HEADER_BYTES)
        .ok_or(Malformed::Truncated)?
        .chunks_exact(2)
        .map(|pair| u16::from_be_bytes([pair[0], pair[1]]))
        .collect();
    let mut rest = &message[HEADER_BYTES..];
    for _ in 0..counts[0] {
        skip_name(&mut rest)?;
        take(&mut rest, 4)?;
    }
    for _ in 0..counts[1..].iter().map(|count| u32::from(*count)).sum() {
        skip_name(&mut rest)?;
        let kind = take_u16(&mut rest)?;
        take(&mut rest, 6)?;
        let length = usize::from(take_u16(&mut rest)?);
        let data = take(&mut rest, length)?;
        if kind == TYPE_OPT {
            return Ok(Some(data));
        }
    }
    Ok(None)
}

/// Steps over a name; a compression pointer ends it.
fn skip_name(rest: &mut &[u8]) -> Result<(), Malformed> {
    loop {
        let &[length] = take(rest, 1)? else { return Err(Malformed::Truncated) };
        match length {
            0 => return Ok(()),
            1..=63 => take(rest, usize::from(length))?,
            _ => return take(rest, 1).map(|_| ()),
        };
    }
}

fn take_u16(rest: &mut &[u8]) -> Result<u16, Malformed> {
    match take(rest, 2)? {
        &[high, low] => Ok(u16::from_be_bytes([high, low])),
        _ => Err(Malformed::Truncated),
    }
}

fn take<'a>(rest: &mut &'a [u8], count: usize) -> Result<&'a [u8], Malformed> {
    let (taken, left) = rest.split_at_checked(count).ok_or(Malformed::Truncated)?;
    *rest = left;
    Ok(taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A query for `a.` with one OPT record of these options.
    fn query(options: &[u8]) -> Vec<u8> {
        let mut message = vec![0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 1];
        message.extend([1, b'a', 0, 0, 1, 0, 1]);
        message.extend([0, 0, 41, 4, 208, 0, 0, 0, 0]);
        message.extend(u16::try_from(options.len()).unwrap().to_be_bytes());
        message.extend(options);
        message
    }

    fn option(family: u16, source: u8, scope: u8, address: &[u8]) -> Vec<u8> {
        let mut option = vec![0, 8];
        option.extend(u16::try_from(4 + address.len()).unwrap().to_be_bytes());
        option.extend(family.to_be_bytes());
        option.extend([source, scope]);
        option.extend(address);
        option
    }

    fn read_one(
        family: u16,
        source: u8,
        scope: u8,
        address: &[u8],
    ) -> Result<Option<ClientSubnet>, Malformed> {
        read(&query(&option(family, source, scope, address)))
    }

    fn network(text: &str) -> Result<Option<ClientSubnet>, Malformed> {
        Ok(Some(ClientSubnet { network: text.parse().unwrap() }))
    }

    #[test]
    fn well_formed_subnets_are_read() {
        assert_eq!(read_one(1, 24, 0, &[192, 0, 2]), network("192.0.2.0/24"));
        assert_eq!(read_one(1, 20, 0, &[192, 0, 0xf0]), network("192.0.240.0/20"));
        assert_eq!(read_one(1, 0, 0, &[]), network("0.0.0.0/0"));
        assert_eq!(read_one(2, 32, 0, &[0x20, 1, 0x0d, 0xb8]), network("2001:db8::/32"));
    }

    #[test]
    fn what_the_rfc_forbids_is_refused() {
        assert_eq!(read_one(1, 24, 1, &[192, 0, 2]), Err(Malformed::Scope));
        assert_eq!(read_one(1, 33, 0, &[192, 0, 2, 1, 0]), Err(Malformed::Source));
        assert_eq!(read_one(1, 24, 0, &[192, 0]), Err(Malformed::Length));
        assert_eq!(read_one(1, 24, 0, &[192, 0, 2, 0]), Err(Malformed::Length));
        assert_eq!(read_one(1, 23, 0, &[192, 0, 3]), Err(Malformed::HostBits));
        assert_eq!(read_one(3, 8, 0, &[1]), Err(Malformed::Family));
        let twice = [option(1, 8, 0, &[10]), option(1, 8, 0, &[10])].concat();
        assert_eq!(read(&query(&twice)), Err(Malformed::Repeated));
    }

    #[test]
    fn other_options_are_stepped_over() {
        let mut options = vec![0, 10, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8];
        options.extend(option(1, 8, 0, &[10]));
        assert_eq!(read(&query(&options)), network("10.0.0.0/8"));
        assert_eq!(read(&query(&[])), Ok(None));
    }

    #[test]
    fn no_prefix_of_a_query_is_read_beyond_its_end() {
        let whole = query(&option(1, 24, 0, &[192, 0, 2]));
        for end in 0..whole.len() {
            assert_eq!(read(&whole[..end]), Err(Malformed::Truncated), "{end}");
        }
    }
}
