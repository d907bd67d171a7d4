use super::*;
use crate::ids::ReplicaId;
use crate::ring::{Rules, ShardCount, Weight, Zone};

fn founding(cluster: u64, nodes: &[u64]) -> Charter {
    let founder = |id: &u64| Founder {
        node: NodeId(*id),
        name: format!("n{id}"),
        zone: Zone::default(),
        weight: Weight::default(),
        link: format!("127.0.0.1:{id}"),
    };
    let founders = nodes.iter().map(founder).collect();
    Charter::new(ClusterId::from_random(cluster, 0), ShardCount::DEFAULT, Rules::default(), founders).unwrap()
}

#[test]
fn each_opening_begins_a_new_generation_of_the_same_node() {
    let dir = tempfile::tempdir().unwrap();
    let first = DataFolder::open(dir.path(), 7 << 32).unwrap().identity().clone();
    let second = DataFolder::open(dir.path(), 9 << 32).unwrap().identity().clone();
    assert_eq!((first.node, first.generation), (NodeId(7), Generation(1)));
    assert_eq!((second.node, second.generation), (NodeId(7), Generation(2)));
}

#[test]
fn two_processes_never_share_a_folder() {
    let dir = tempfile::tempdir().unwrap();
    let held = DataFolder::open(dir.path(), 1 << 32).unwrap();
    assert!(matches!(DataFolder::open(dir.path(), 1 << 32), Err(FolderError::InUse { .. })));
    drop(held);
    assert!(DataFolder::open(dir.path(), 1 << 32).is_ok());
}

#[test]
fn a_node_keeps_its_first_cluster() {
    let dir = tempfile::tempdir().unwrap();
    let mut folder = DataFolder::open(dir.path(), 1 << 32).unwrap();
    let (one, two) = (founding(1, &[1, 2, 3]), founding(2, &[1, 2, 3]));
    assert_eq!(folder.offer(one.clone()).unwrap(), one);
    folder.begin(&founding(1, &[3, 2, 1])).unwrap();
    folder.begin(&one).unwrap();
    assert_eq!(folder.offer(two.clone()).unwrap(), one);
    assert!(matches!(folder.begin(&two), Err(FolderError::OtherCluster { .. })));
    folder.withdraw(&one).unwrap();
    drop(folder);
    let again = DataFolder::open(dir.path(), 1 << 32).unwrap();
    assert_eq!(again.identity().charter, Some(one));
}

#[test]
fn of_two_offers_the_first_is_kept_until_it_is_withdrawn_and_only_it_can_begin() {
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = (founding(1, &[1, 2, 3]), founding(2, &[1, 2, 3]));
    let mut folder = DataFolder::open(dir.path(), 1 << 32).unwrap();
    assert!(matches!(folder.begin(&one), Err(FolderError::NotOffered { .. })));
    folder.offer(one.clone()).unwrap();
    drop(folder);
    let mut folder = DataFolder::open(dir.path(), 1 << 32).unwrap();
    assert_eq!(folder.identity().charter, None, "an offer makes no cluster");
    assert_eq!(folder.offer(two.clone()).unwrap(), one);
    assert!(matches!(folder.begin(&two), Err(FolderError::NotOffered { .. })));
    folder.withdraw(&two).unwrap();
    assert_eq!(folder.identity().held(), Some(&one));
    folder.withdraw(&one).unwrap();
    assert_eq!(folder.offer(two.clone()).unwrap(), two);
    folder.begin(&two).unwrap();
}

#[test]
fn an_identity_of_before_offers_still_names_its_cluster() {
    let charter = founding(1, &[1, 2, 3]);
    let old = minicbor::to_vec((NodeId(7), Generation(4), Some(&charter))).unwrap();
    let read: Identity = minicbor::decode(&old).unwrap();
    assert_eq!((read.charter, read.offered), (Some(charter), None));
}

#[test]
fn a_damaged_identity_is_told_and_not_replaced() {
    let dir = tempfile::tempdir().unwrap();
    drop(DataFolder::open(dir.path(), 1 << 32).unwrap());
    let path = dir.path().join("identity");
    let sound = std::fs::read(&path).unwrap();
    for at in 0..sound.len() {
        let mut damaged = sound.clone();
        damaged[at] ^= 0x40;
        std::fs::write(&path, &damaged).unwrap();
        let refused = DataFolder::open(dir.path(), 1 << 32);
        assert!(matches!(refused, Err(FolderError::Record(RecordError::Damaged { .. }))), "byte {at}");
        assert_eq!(std::fs::read(&path).unwrap(), damaged);
    }
    std::fs::write(&path, &sound[..10]).unwrap();
    assert!(DataFolder::open(dir.path(), 1 << 32).is_err());
}

#[test]
fn the_meta_group_has_an_odd_number_of_voters() {
    let voters = |nodes: &[u64]| founding(1, nodes).meta_voters().len();
    assert_eq!((voters(&[1]), voters(&[1, 2]), voters(&[1, 2, 3]), voters(&[1, 2, 3, 4])), (1, 1, 3, 3));
    assert_eq!(voters(&[1, 2, 3, 4, 5, 6, 7]), 5);
    let three = founding(1, &[30, 10, 20]);
    assert_eq!(three.meta_replica_of(NodeId(20)), Some(ReplicaId(2)));
}

#[test]
fn a_node_given_twice_is_refused() {
    let twice = [1, 1].map(|id| Founder {
        node: NodeId(id),
        name: String::new(),
        zone: Zone::default(),
        weight: Weight::default(),
        link: "x:1".to_string(),
    });
    let refused = Charter::new(ClusterId::from_random(1, 1), ShardCount::DEFAULT, Rules::default(), twice.to_vec());
    assert!(matches!(refused, Err(CharterError::SameNode { .. })));
}
