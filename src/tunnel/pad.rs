//! Why Linux takes super-packets in a UDP tunnel from a TUN at all.
//!
//! It checks the place of the outer UDP header as if an Ethernet header came first (`virtio_net_hdr_tnl_to_skb`, since
//! 6.17): 14 bytes more than a TUN's packet has before it. The packet is given them: options of the outer IP header that
//! say nothing, on their way from us to the host's own end of that tunnel.

use super::{
    headers::MAX_HEADERS,
    layout::{Layout, fold, sum},
    vnet::VnetHeader,
};

/// Bytes that are put in: IPv4's options come in words, IPv6's in units of 8.
pub(super) const PAD: usize = 16;
/// IPv4 counts its header in words.
const PAD_WORDS: u8 = PAD as u8 / 4;
/// Destination options (RFC 8200, 4.6) before UDP: the length in units of 8 after the first, an option for experiments
/// that whoever does not know it skips (RFC 4727), its length. Padding options may not be as long as this.
const DESTINATION_OPTIONS: u8 = 60;
const OPTIONS_V6: [u8; 4] = [17, PAD as u8 / 8 - 1, 0x1e, PAD as u8 - 4];

/// The same headers with [`PAD`] bytes after the outer IP header, of which `outer` is the layout; moves what `vnet` says
/// of them. The packet may be at most [`PAD`] bytes shorter than the longest.
pub(super) fn pad(
    outer: &Layout,
    headers: &[u8; MAX_HEADERS],
    vnet: &mut VnetHeader,
) -> [u8; MAX_HEADERS + PAD] {
    let mut padded = [0; MAX_HEADERS + PAD];
    let (ip, rest) = headers.split_at(outer.start);
    padded[..ip.len()].copy_from_slice(ip);
    padded[ip.len() + PAD..].copy_from_slice(rest);
    let lengthen = |field: &mut [u8]| {
        let length = u16::from_be_bytes([field[0], field[1]]) + PAD as u16;
        field.copy_from_slice(&length.to_be_bytes());
    };
    if outer.v6 {
        lengthen(&mut padded[4..6]);
        padded[6] = DESTINATION_OPTIONS;
        padded[ip.len()..ip.len() + OPTIONS_V6.len()].copy_from_slice(&OPTIONS_V6);
    } else {
        // Zeros are the end of the options.
        padded[0] += PAD_WORDS;
        lengthen(&mut padded[2..4]);
        padded[10..12].fill(0);
        let checksum = !fold(sum(&padded[..ip.len() + PAD], 0));
        padded[10..12].copy_from_slice(&checksum.to_be_bytes());
    }
    let pad = PAD as u16;
    vnet.header_length += pad;
    vnet.checksum_start += pad;
    if let Some(encapsulation) = &mut vnet.encapsulation {
        encapsulation.udp += pad;
        encapsulation.inner += pad;
    }
    padded
}
