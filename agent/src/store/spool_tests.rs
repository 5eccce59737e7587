//! The spool's files: what is written is read back, what is torn is cut off, what is full says so.

use super::*;

fn directory(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("weir-spool-{}-{name}", std::process::id()));
    let _ = std::fs::remove_dir_all(&path);
    path
}

fn block(first: u64, rows: u64, bytes: &[u8]) -> Block<'_> {
    Block { first, rows, head: [first as u8; 32], time: first * 10, bytes }
}

#[test]
fn batches_come_back_in_order_under_the_same_token() {
    let path = directory("order");
    let (mut spool, found) = Spool::open(&path, "a", "events (x, y)").unwrap();
    assert_eq!(found, Found::default());
    spool.append(&block(1, 2, b"one"), false).unwrap();
    spool.append(&block(3, 1, &[7; 1000]), true).unwrap();
    let sealed = spool.seal(true).unwrap();
    assert_eq!((sealed.rows, sealed.chain.sequence, sealed.time), (3, 3, 30));
    assert_eq!(sealed.blocks().unwrap(), [Bytes::from_static(b"one"), Bytes::from(vec![7; 1000])]);
    spool.append(&block(4, 1, b"two"), false).unwrap();
    // Killed here: the second batch was never sealed.
    let (mut spool, found) = Spool::open(&path, "a", "events (x, y, z)").unwrap();
    assert_eq!(found.torn, 0);
    assert_eq!(found.batches[0], sealed);
    assert_eq!((found.batches[1].receipts(), found.batches[1].target.as_str()), (1, "events (x, y)"));
    assert_ne!(found.batches[0].token, found.batches[1].token);
    // New batches come after the old ones.
    spool.append(&block(5, 1, b"three"), false).unwrap();
    assert!(spool.seal(false).unwrap().number > found.batches[1].number);
}

#[test]
fn a_cut_at_any_place_loses_only_what_is_not_whole() {
    let path = directory("cut");
    let (mut spool, _) = Spool::open(&path, "a", "x").unwrap();
    spool.append(&block(1, 1, b"first"), false).unwrap();
    let one = spool.open.as_ref().unwrap().batch.bytes as usize;
    spool.append(&block(2, 1, b"second"), false).unwrap();
    let batch = spool.seal(false).unwrap();
    let bytes = std::fs::read(&batch.path).unwrap();
    for cut in 0..bytes.len() {
        std::fs::write(&batch.path, &bytes[..cut]).unwrap();
        let (found, torn) = recover(&batch.path, 1, "a").unwrap();
        let rows = found.map_or(0, |b| b.rows);
        assert_eq!(rows, u64::from(cut >= one), "cut at {cut}");
        assert_eq!(torn, cut != one && cut != one - RECORD - 5, "cut at {cut}");
    }
}

#[test]
fn a_changed_byte_is_noticed() {
    let path = directory("flip");
    let (mut spool, _) = Spool::open(&path, "a", "x").unwrap();
    spool.append(&block(1, 1, b"first"), false).unwrap();
    let batch = spool.seal(false).unwrap();
    let bytes = std::fs::read(&batch.path).unwrap();
    for at in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[at] ^= 0x10;
        std::fs::write(&batch.path, &changed).unwrap();
        assert_eq!(recover(&batch.path, 1, "a").unwrap(), (None, true), "byte {at}");
    }
}

#[test]
fn a_full_disk_leaves_what_was_there() {
    let path = directory("full");
    let (mut spool, _) = Spool::open(&path, "a", "x").unwrap();
    spool.append(&block(1, 1, b"first"), false).unwrap();
    let good = spool.open.as_ref().unwrap().batch.bytes;
    // Writing to /dev/full fails as a full disk does.
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    let real = std::mem::replace(&mut spool.open.as_mut().unwrap().file, full);
    assert!(spool.append(&block(2, 1, b"second"), false).is_err());
    spool.open.as_mut().unwrap().file = real;
    assert_eq!(spool.open.as_ref().unwrap().batch.bytes, good);
    spool.append(&block(2, 1, b"again"), false).unwrap();
    assert_eq!(spool.seal(false).unwrap().rows, 2);
    let (_, found) = Spool::open(&path, "a", "x").unwrap();
    assert_eq!((found.batches[0].rows, found.torn), (2, 0));
}

#[test]
fn a_row_for_another_table_is_a_batch_of_its_own() {
    let path = directory("note");
    let (mut spool, _) = Spool::open(&path, "a", "events (x)").unwrap();
    spool.append(&block(1, 2, b"open"), false).unwrap();
    let chain = Chain { sequence: 2, head: [2; 32] };
    let row = |bytes: &[u8]| Row { target: "checkpoints (y)".into(), block: bytes.to_vec() };
    let notes = [
        spool.note(&row(b"one"), &chain, 20, false).unwrap(),
        spool.note(&row(b"two"), &chain, 20, false).unwrap(),
    ];
    assert_ne!(notes[0].token, notes[1].token, "the same place in the chain, not the same row");
    assert_eq!((notes[0].receipts(), notes[0].rows), (0, 1));
    let (_, found) = Spool::open(&path, "a", "events (x)").unwrap();
    assert_eq!(found.batches.iter().skip(1).cloned().collect::<Vec<_>>(), notes);
    assert_eq!(found.batches.iter().map(Batch::receipts).sum::<u64>(), 2);
}

#[test]
fn a_spool_of_an_earlier_version_holds_events() {
    let path = directory("earlier");
    let (mut spool, _) = Spool::open(&path, "a", "x, y").unwrap();
    spool.append(&block(1, 2, b"one"), false).unwrap();
    let sealed = spool.seal(false).unwrap();
    let (_, found) = Spool::open(&path, "a", "events (x)").unwrap();
    assert_eq!((found.batches[0].receipts(), found.batches[0].target.as_str()), (2, "events (x, y)"));
    let _ = sealed;
}
