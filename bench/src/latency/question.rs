//! One DNS question and the first address of its answer, by hand: the loop that asks it every millisecond must
//! cost next to nothing.

use std::net::Ipv4Addr;

use anyhow::{Context as _, bail};

const TYPE_A: u16 = 1;
const TYPE_OPT: u16 = 41;
const CLASS_IN: u16 = 1;
/// EDNS option code of the client subnet (RFC 7871).
const CLIENT_SUBNET: u16 = 8;

/// A query for the A records of `name` on behalf of the /24 of `client`.
///
/// # Errors
/// When a label of the name is longer than 63 bytes.
pub(super) fn query(id: u16, name: &str, client: Ipv4Addr) -> anyhow::Result<Vec<u8>> {
    let mut message = Vec::with_capacity(128);
    // One question, one additional record.
    for field in [id, 0, 1, 0, 0, 1] {
        put(&mut message, field);
    }
    for label in name.trim_end_matches('.').split('.') {
        message.push(
            u8::try_from(label.len()).ok().filter(|length| *length < 64).context("a label is too long")?,
        );
        message.extend_from_slice(label.as_bytes());
    }
    message.push(0);
    put(&mut message, TYPE_A);
    put(&mut message, CLASS_IN);
    // OPT: root name, type, payload size as class, version and flags as TTL, then one option.
    message.push(0);
    for field in [TYPE_OPT, 1232, 0, 0, 11, CLIENT_SUBNET, 7, 1] {
        put(&mut message, field);
    }
    let [a, b, c, _] = client.octets();
    message.extend_from_slice(&[24, 0, a, b, c]);
    Ok(message)
}

/// The first A record of a response to query `id`.
///
/// # Errors
/// When it is no such response, its rcode is not NOERROR, or it has no A record.
pub(super) fn first_address(id: u16, message: &[u8]) -> anyhow::Result<Ipv4Addr> {
    let field = |at: usize| -> anyhow::Result<u16> {
        let bytes = message.get(at..at + 2).context("the response is cut off")?;
        Ok(u16::from_be_bytes([bytes[0], bytes[1]]))
    };
    let flags = field(2)?;
    if field(0)? != id || flags & 0x8000 == 0 {
        bail!("not the response to this query");
    }
    if flags & 0xf != 0 {
        bail!("rcode {}", flags & 0xf);
    }
    let mut at = 12;
    for _ in 0..field(4)? {
        at = after_name(message, at)? + 4;
    }
    for _ in 0..field(6)? {
        at = after_name(message, at)?;
        let (kind, length) = (field(at)?, usize::from(field(at + 8)?));
        at += 10;
        if let (TYPE_A, Some([a, b, c, d])) = (kind, message.get(at..at + length)) {
            return Ok(Ipv4Addr::new(*a, *b, *c, *d));
        }
        at += length;
    }
    bail!("no A record")
}

fn put(message: &mut Vec<u8>, field: u16) {
    message.extend_from_slice(&field.to_be_bytes());
}

/// Where a name that begins at `at` ends; a compression pointer is its end.
fn after_name(message: &[u8], mut at: usize) -> anyhow::Result<usize> {
    loop {
        match *message.get(at).context("a name is cut off")? {
            0 => return Ok(at + 1),
            pointer if pointer >= 0xc0 => return Ok(at + 2),
            length => at += 1 + usize::from(length),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A response with a CNAME before two addresses, all names compressed.
    fn response(id: u16, rcode: u8) -> Vec<u8> {
        let mut message = query(id, "a.example.org", Ipv4Addr::LOCALHOST).unwrap();
        // Cut at the additional record; one question, three answers.
        message.truncate(12 + 15 + 4);
        message[2..12].copy_from_slice(&[0x84, rcode, 0, 1, 0, 3, 0, 0, 0, 0]);
        message.extend_from_slice(&[0xc0, 12, 0, 5, 0, 1, 0, 0, 0, 5, 0, 4, 1, b'b', 0xc0, 14]);
        for last in [1, 2] {
            message.extend_from_slice(&[1, b'b', 0xc0, 14, 0, 1, 0, 1, 0, 0, 0, 5, 0, 4, 10, 0, 0, last]);
        }
        message
    }

    #[test]
    fn first_address_is_found_behind_an_alias() {
        assert_eq!(first_address(7, &response(7, 0)).unwrap(), Ipv4Addr::new(10, 0, 0, 1));
    }

    #[test]
    fn foreign_failed_and_cut_responses_are_refused() {
        assert!(first_address(8, &response(7, 0)).is_err());
        assert!(first_address(7, &response(7, 3)).is_err());
        let whole = response(7, 0);
        assert!(first_address(7, &whole[..40]).is_err());
    }

    #[test]
    fn query_carries_the_clients_subnet() {
        let message = query(1, "a.example.org.", Ipv4Addr::new(203, 0, 113, 7)).unwrap();
        assert_eq!(message[message.len() - 11..], [0, 8, 0, 7, 0, 1, 24, 0, 203, 0, 113]);
    }
}
