//! Capture files built by hand, of every link type, byte order and resolution -> what must be read from them.

use std::io::Cursor;

use agent_core::segment::Side;

use super::*;

/// An IPv4 packet with a TCP segment from port 40000 to 5432; options in both headers, padding behind.
fn ipv4(payload: &[u8]) -> Vec<u8> {
    let total = (24 + 32 + payload.len()) as u16;
    let mut p = vec![0x46, 0];
    p.extend(total.to_be_bytes());
    p.extend([0, 1, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 9, 10, 0, 0, 1, 1, 1, 1, 1]);
    p.extend(tcp(payload));
    p.extend([0; 3]);
    p
}

/// The same over IPv6, behind a hop-by-hop header.
fn ipv6(payload: &[u8]) -> Vec<u8> {
    let mut p = vec![0x60, 0, 0, 0];
    p.extend(((8 + 32 + payload.len()) as u16).to_be_bytes());
    p.extend([0, 64]);
    p.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9]);
    p.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    p.extend([6, 0, 1, 4, 0, 0, 0, 0]);
    p.extend(tcp(payload));
    p
}

fn tcp(payload: &[u8]) -> Vec<u8> {
    let mut t = vec![0x9c, 0x40, 0x15, 0x38, 0, 0, 0, 7, 0, 0, 0, 9, 0x80, 0x18, 1, 0, 0, 0, 0, 0];
    t.extend([1, 1, 8, 10, 0, 0, 0, 0, 0, 0, 0, 0]);
    t.extend(payload);
    t
}

fn framed(link: i32, packet: &[u8]) -> Vec<u8> {
    let kind: [u8; 2] = if packet[0] >> 4 == 4 { [8, 0] } else { [0x86, 0xdd] };
    let head: Vec<u8> = match link {
        1 => [&[0; 12][..], &kind].concat(),
        -1 => [&[0; 12][..], &[0x81, 0, 0, 5], &kind].concat(),
        -2 => [&[0; 12][..], &[0x88, 0xa8, 0, 5, 0x81, 0, 0, 6], &kind].concat(),
        113 => [&[0, 0, 0, 1, 0, 6, 0, 0, 0, 0, 0, 0, 0, 0][..], &kind].concat(),
        276 => [&kind[..], &[0; 18]].concat(),
        0 => vec![2, 0, 0, 0],
        108 => vec![0, 0, 0, 2],
        _ => Vec::new(),
    };
    [head, packet.to_vec()].concat()
}

struct Endian(bool);

impl Endian {
    fn u32(&self, value: u32) -> [u8; 4] {
        if self.0 { value.to_be_bytes() } else { value.to_le_bytes() }
    }
    fn u16(&self, value: u16) -> [u8; 2] {
        if self.0 { value.to_be_bytes() } else { value.to_le_bytes() }
    }
}

/// A pcap file of these frames, a second apart, `cut` bytes of each missing at its end.
fn pcap(link: i32, big: bool, nanos: bool, frames: &[Vec<u8>], cut: usize) -> Vec<u8> {
    let e = Endian(big);
    let magic = if nanos { 0xa1b2_3c4d } else { 0xa1b2_c3d4 };
    let mut file = e.u32(magic).to_vec();
    file.extend(e.u16(2));
    file.extend(e.u16(4));
    for word in [0, 0, 65_535, link as u32] {
        file.extend(e.u32(word));
    }
    for (second, frame) in frames.iter().enumerate() {
        let kept = frame.len() - cut;
        for word in [1_000 + second as u32, 5, kept as u32, frame.len() as u32] {
            file.extend(e.u32(word));
        }
        file.extend(&frame[..kept]);
    }
    file
}

/// A pcapng file with nanoseconds.
fn pcapng(link: u16, big: bool, frames: &[Vec<u8>]) -> Vec<u8> {
    let e = Endian(big);
    let mut file = Vec::new();
    let mut block = |kind: u32, body: Vec<u8>| {
        let length = (body.len().next_multiple_of(4) + 12) as u32;
        file.extend(e.u32(kind));
        file.extend(e.u32(length));
        file.extend(&body);
        file.resize(file.len().next_multiple_of(4), 0);
        file.extend(e.u32(length));
    };
    block(0x0a0d_0d0a, [&e.u32(0x1a2b_3c4d)[..], &e.u16(1), &e.u16(0), &[0xff; 8]].concat());
    let resolution = [&e.u16(9)[..], &e.u16(1), &[9, 0, 0, 0], &[0; 4]].concat();
    block(1, [&e.u16(link)[..], &e.u16(0), &e.u32(0), &resolution].concat());
    for (second, frame) in frames.iter().enumerate() {
        let ticks = (1_000 + second as u64) * 1_000_000_000 + 5;
        let words = [0, (ticks >> 32) as u32, ticks as u32, frame.len() as u32, frame.len() as u32];
        block(6, [words.iter().flat_map(|&w| e.u32(w)).collect::<Vec<u8>>(), frame.clone()].concat());
    }
    file
}

/// Connection, time, true length and captured bytes of a segment.
type Seen = (Flow, Nanos, u32, Vec<u8>);

fn read(file: Vec<u8>) -> (Vec<Seen>, Counters) {
    let mut capture = Capture::read(Path::new("test.pcap"), Cursor::new(file)).unwrap();
    let mut out = Vec::new();
    capture
        .for_each(|flow, segment| {
            assert_eq!((segment.sequence, segment.acknowledgment, segment.flags.ack), (7, 9, true));
            assert_eq!(segment.from, Side::B, "the sender is the higher endpoint");
            out.push((flow, segment.time, segment.length, segment.head.to_vec()));
        })
        .unwrap();
    (out, capture.counters)
}

#[test]
fn every_link_type_byte_order_and_resolution() {
    for link in [1, -1, -2, 113, 276, 0, 108, 101, 12] {
        for packet in [ipv4(b"payload"), ipv6(b"payload")] {
            let frames = [framed(link, &packet), framed(link, &packet)];
            let number = link.max(1) * i32::from(link != 0); // tagged Ethernet is Ethernet
            for big in [false, true] {
                let files = [
                    (pcap(number, big, false, &frames, 0), 5_000),
                    (pcap(number, big, true, &frames, 0), 5),
                    (pcapng(number as u16, big, &frames), 5),
                ];
                for (index, (file, fraction)) in files.into_iter().enumerate() {
                    let (segments, counters) = read(file);
                    let what = format!("link {link}, big {big}, file {index}");
                    assert_eq!(segments.len(), 2, "{what}");
                    let (flow, time, length, head) = &segments[1];
                    assert_eq!((*length, &head[..]), (7, &b"payload"[..]), "{what}");
                    assert_eq!(time.0, 1_001_000_000_000 + fraction, "{what}");
                    assert_eq!((flow.ends[0].port, flow.ends[1].port), (5432, 40_000), "{what}");
                    assert_eq!(
                        (counters.packets, counters.truncated, counters.malformed),
                        (2, 0, 0),
                        "{what}"
                    );
                }
            }
        }
    }
}

#[test]
fn what_the_snap_length_cut_off_is_counted() {
    let frames = [framed(1, &ipv4(b"payload"))];
    let (segments, counters) = read(pcap(1, false, false, &frames, 3 + 4));
    assert_eq!((segments[0].2, &segments[0].3[..]), (7, &b"pay"[..]));
    assert_eq!(counters.truncated, 1);
    let (segments, counters) = read(pcap(1, false, false, &frames, 30));
    assert!(segments.is_empty(), "the TCP header is cut off");
    assert_eq!(counters.truncated, 1);
}

#[test]
fn fragments_strangers_and_nonsense_are_counted() {
    let mut fragment = ipv4(b"x");
    fragment[6] = 0x20;
    let mut udp = ipv4(b"x");
    udp[9] = 17;
    let mut nonsense = ipv4(b"x");
    nonsense[2..4].copy_from_slice(&[0, 10]);
    let arp = [&[0; 12][..], &[8, 6], &[0; 28]].concat();
    let frames = [framed(1, &fragment), framed(1, &udp), framed(1, &nonsense), arp];
    let (segments, counters) = read(pcap(1, false, false, &frames, 0));
    assert!(segments.is_empty());
    assert_eq!((counters.fragments, counters.non_tcp, counters.malformed), (1, 2, 1));
}

#[test]
fn a_file_may_end_in_the_middle_of_a_packet() {
    let mut file = pcap(1, false, false, &[framed(1, &ipv4(b"one")), framed(1, &ipv4(b"two"))], 0);
    file.truncate(file.len() - 5);
    let (segments, counters) = read(file);
    assert_eq!((segments.len(), counters.unfinished), (1, 1));
}

#[test]
fn other_files_are_named() {
    for (bytes, word) in [
        (&b"\x1f\x8b\x08..."[..], "gunzip"),
        (b"{\"a\": 1}", "JSON"),
        (b"select 1;\n", "a text file"),
        (b"", "an empty file"),
        (b"\x00\x01\x02\x03\x04\x05\x06\x07", "unknown kind"),
    ] {
        let error =
            Capture::read(Path::new("x"), Cursor::new(bytes)).err().expect("not a capture").to_string();
        assert!(error.contains(word), "{error}");
    }
    let mut capture = Capture::read(Path::new("x"), Cursor::new(pcap(147, false, false, &[], 0))).unwrap();
    let error = capture.for_each(|_, _| {}).unwrap_err().to_string();
    assert!(error.contains("link type 147"), "{error}");
}
