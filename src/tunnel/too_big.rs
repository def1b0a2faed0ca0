//! A packet that is longer than the way to its peer takes: the answer that its sender understands (RFC 792 and 1191,
//! RFC 4443), and TCP's own limit written down while a connection is made (RFC 6691).

use super::layout::{Layout, Transport, complete, fold, sum};

/// The IPv6 minimum; also what an ICMPv6 error may have at most.
const LEAST_V6: usize = 1280;
/// What an ICMP error of IPv4 may have at most (RFC 1812).
const MOST_V4: usize = 576;
const SYN: u8 = 0x02;

/// The ICMP message "too big, `mtu` bytes fit" for `packet`, from its destination to its source. None where there is to
/// be none: a later fragment, an ICMP error. IPv4 that may be fragmented is answered too: its sender then makes the
/// fragments, or whole packets, that fit, which costs less than to cut every one of them here.
pub fn too_big(packet: &[u8], mtu: u16) -> Option<Vec<u8>> {
    match packet.first()? >> 4 {
        4 => too_big_v4(packet, mtu),
        6 => too_big_v6(packet, mtu),
        _ => None,
    }
}

fn too_big_v4(packet: &[u8], mtu: u16) -> Option<Vec<u8>> {
    let header = packet.first_chunk::<20>()?;
    let length = usize::from(header[0] & 0xf) * 4;
    let later = u16::from_be_bytes([header[6], header[7]]) & 0x1fff != 0;
    // Only echo requests and replies of ICMP are answered.
    let error = header[9] == 1 && !matches!(packet.get(length)?, 0 | 8);
    if later || error {
        return None;
    }
    let quoted = &packet[..packet.len().min(MOST_V4 - 28)];
    let mut reply = vec![0; 28 + quoted.len()];
    let total = reply.len() as u16;
    reply[0] = 0x45;
    reply[2..4].copy_from_slice(&total.to_be_bytes());
    (reply[8], reply[9]) = (64, 1);
    reply[12..16].copy_from_slice(&header[16..20]);
    reply[16..20].copy_from_slice(&header[12..16]);
    let checksum = !fold(sum(&reply[..20], 0));
    reply[10..12].copy_from_slice(&checksum.to_be_bytes());
    (reply[20], reply[21]) = (3, 4);
    reply[26..28].copy_from_slice(&mtu.to_be_bytes());
    reply[28..].copy_from_slice(quoted);
    complete(&mut reply, 20, 22);
    Some(reply)
}

fn too_big_v6(packet: &[u8], mtu: u16) -> Option<Vec<u8>> {
    let header = packet.first_chunk::<40>()?;
    if header[6] == 58 && packet.get(40)? & 0x80 == 0 {
        return None;
    }
    let quoted = &packet[..packet.len().min(LEAST_V6 - 48)];
    let mut reply = vec![0; 48 + quoted.len()];
    let length = reply.len() as u16 - 40;
    reply[0] = 0x60;
    reply[4..6].copy_from_slice(&length.to_be_bytes());
    (reply[6], reply[7]) = (58, 64);
    reply[8..24].copy_from_slice(&header[24..40]);
    reply[24..40].copy_from_slice(&header[8..24]);
    reply[40] = 2;
    reply[44..48].copy_from_slice(&u32::from(mtu).to_be_bytes());
    reply[48..].copy_from_slice(quoted);
    let pseudo = fold(sum(&reply[8..40], u32::from(length) + 58));
    reply[42..44].copy_from_slice(&pseudo.to_be_bytes());
    complete(&mut reply, 40, 42);
    Some(reply)
}

/// Lowers the MSS that a SYN offers to what `mtu` takes, so that the other end never sends a segment that does not fit.
/// `partial`: the checksum is still to be made, so it is left alone.
pub fn clamp_mss(packet: &mut [u8], mtu: u16, partial: bool) {
    let Some(layout) = Layout::of(packet).filter(|layout| layout.transport == Transport::Tcp) else { return };
    if packet[layout.flags()] & SYN == 0 {
        return;
    }
    let limit = mtu.saturating_sub(if layout.v6 { 60 } else { 40 });
    let mut at = layout.start + 20;
    while at < layout.payload {
        let length = match packet[at] {
            0 => return,
            1 => 1,
            _ => packet.get(at + 1).map_or(0, |length| usize::from(*length)),
        };
        if packet[at] == 2 && length == 4 && at + 4 <= layout.payload {
            let offered = u16::from_be_bytes([packet[at + 2], packet[at + 3]]);
            if offered > limit {
                packet[at + 2..at + 4].copy_from_slice(&limit.to_be_bytes());
                if !partial {
                    adjust(packet, &layout, at + 2, offered, limit);
                }
            }
            return;
        }
        if length == 0 {
            return;
        }
        at += length;
    }
}

/// The checksum after a word at `at` has changed (RFC 1624). At an odd place the word's bytes count the other way round.
fn adjust(packet: &mut [u8], layout: &Layout, at: usize, old: u16, new: u16) {
    let odd = (at - layout.start) % 2 == 1;
    let (old, new) = if odd { (old.swap_bytes(), new.swap_bytes()) } else { (old, new) };
    let field = &mut packet[layout.checksum()];
    let checksum = u16::from_be_bytes([field[0], field[1]]);
    let checksum = !fold(u32::from(!checksum) + u32::from(!old) + u32::from(new));
    field.copy_from_slice(&checksum.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A packet with DF and `payload` bytes after its IP header.
    fn packet(v6: bool, protocol: u8, payload: &[u8]) -> Vec<u8> {
        let mut packet = vec![0; if v6 { 40 } else { 20 }];
        if v6 {
            packet[0] = 0x60;
            packet[6] = protocol;
            packet[8..24].fill(0x11);
            packet[24..40].fill(0x22);
        } else {
            (packet[0], packet[6], packet[9]) = (0x45, 0x40, protocol);
            packet[12..20].copy_from_slice(&[10, 1, 0, 1, 10, 1, 0, 2]);
        }
        packet.extend_from_slice(payload);
        packet
    }

    /// A SYN with these options and a right checksum.
    fn syn(v6: bool, options: &[u8]) -> Vec<u8> {
        let mut tcp = vec![0; 20 + options.len()];
        (tcp[12], tcp[13]) = ((((20 + options.len()) / 4) << 4) as u8, SYN);
        tcp[20..].copy_from_slice(options);
        let mut packet = packet(v6, 6, &tcp);
        let layout = Layout::of(&packet).expect("TCP");
        let length = packet.len();
        layout.set_length(&mut packet, length);
        complete(&mut packet, layout.start, layout.checksum().start);
        packet
    }

    /// Whether the transport's checksum is right.
    fn is_sound(packet: &[u8]) -> bool {
        let (addresses, start, protocol) = if packet[0] >> 4 == 6 {
            (&packet[8..40], 40, packet[6])
        } else {
            (&packet[12..20], 20, packet[9])
        };
        let pseudo = if protocol == 1 {
            0
        } else {
            sum(addresses, u32::from(protocol) + (packet.len() - start) as u32)
        };
        fold(sum(&packet[start..], pseudo)) == 0xffff
    }

    #[test]
    fn the_sender_hears_what_fits_and_of_which_packet() {
        for v6 in [false, true] {
            let long = packet(v6, 17, &[7; 1400]);
            let reply = too_big(&long, 1280).expect("an answer");
            let start = if v6 { 40 } else { 20 };
            assert!(is_sound(&reply));
            assert_eq!(reply[start..start + 2], if v6 { [2, 0] } else { [3, 4] });
            assert_eq!(u16::from_be_bytes([reply[start + 6], reply[start + 7]]), 1280);
            let quoted = &reply[start + 8..];
            assert_eq!(quoted, &long[..quoted.len()]);
            assert!(reply.len() <= if v6 { 1280 } else { 576 });
            let from_to = if v6 { (8..24, 24..40) } else { (12..16, 16..20) };
            assert_eq!(reply[from_to.0.clone()], long[from_to.1]);
        }
    }

    #[test]
    fn there_is_no_answer_to_errors_and_later_fragments() {
        let mut free = packet(false, 17, &[0; 1400]);
        free[6] = 0;
        assert!(too_big(&free, 1280).is_some(), "its sender makes smaller fragments");
        let mut fragment = packet(false, 17, &[0; 1400]);
        fragment[7] = 9;
        assert_eq!(too_big(&fragment, 1280), None);
        assert_eq!(too_big(&packet(false, 1, &[3; 1400]), 1280), None);
        assert_eq!(too_big(&packet(true, 58, &[1; 1400]), 1280), None);
        assert!(too_big(&packet(false, 1, &[8; 1400]), 1280).is_some());
        assert!(too_big(&packet(true, 58, &[128; 1400]), 1280).is_some());
    }

    #[test]
    fn a_syn_offers_what_fits_with_a_right_checksum_wherever_the_option_is() {
        for v6 in [false, true] {
            for options in [&[2, 4, 5, 180][..], &[1, 2, 4, 5, 180, 1, 1, 1], &[3, 3, 7, 1, 2, 4, 255, 255]] {
                let mut packet = syn(v6, options);
                assert!(is_sound(&packet));
                clamp_mss(&mut packet, 1300, false);
                assert!(is_sound(&packet));
                let limit: u16 = if v6 { 1240 } else { 1260 };
                assert!(packet.windows(4).any(|w| w[..2] == [2, 4] && w[2..] == limit.to_be_bytes()));
            }
            let small = syn(v6, &[2, 4, 2, 0]);
            let mut same = small.clone();
            clamp_mss(&mut same, 1300, false);
            assert_eq!(same, small);
        }
    }

    proptest! {
        #[test]
        fn any_packet_can_come(mut bytes: Vec<u8>, v6: bool, mtu: u16, partial: bool) {
            if let Some(first) = bytes.first_mut() {
                *first = if v6 { 0x60 } else { 0x45 };
            }
            if bytes.len() > 9 {
                (bytes[6], bytes[9]) = (6, 6);
            }
            let _ = too_big(&bytes, mtu);
            clamp_mss(&mut bytes, mtu, partial);
        }
    }
}
