//! The bytes of the format. What stands here is on disks: a change needs a new version, not new expectations.

use super::*;
use crate::fs::Fs;

fn hex(bytes: &[u8]) -> String {
    bytes.chunks(16).map(|line| line.iter().map(|b| format!("{b:02x}")).collect::<String>() + "\n").collect()
}

#[test]
fn the_bytes_are_those_of_docs_storage_format() {
    let fs = LyingFs::new(0);
    let (wal, mut engine, _) = open(&fs);
    wal.append(ReplicaId(0x51), vec![record(3, 9, b"payload")], ignore()).unwrap();
    drop(wal.save_vote(ReplicaId(0x51), Bytes::from_static(b"vote")).unwrap());
    drop(wal.purge(ReplicaId(0x51), id(3, 8)).unwrap());
    let checkpoint = CheckpointRecord { generation: 2, applied: Some(id(3, 8)), checksum: 0xabcd };
    drop(wal.checkpoint(ReplicaId(0x51), checkpoint).unwrap());
    drop(wal.forget(ReplicaId(0x52)).unwrap());
    drain(&mut engine);
    close(&wal, &mut engine);
    assert_eq!(fs.list().unwrap(), ["0000000000000001.seg"]);
    let bytes = fs.content("0000000000000001.seg").unwrap();
    let expected = include_str!("golden.txt");
    let mut found = String::new();
    for (title, range) in [
        ("segment header", 0..64),
        ("first batch: an empty snapshot", 512..512 + 128),
        ("second batch: entry, vote, purge, checkpoint, forget", 1024..1024 + 336),
        ("last batch: the snapshot at closing", 1536..1536 + 256),
    ] {
        found += &format!("{title}, at {}\n{}\n", range.start, hex(&bytes[range.clone()]));
    }
    assert!(found == expected, "found:\n{found}\nexpected:\n{expected}");
}
