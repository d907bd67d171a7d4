use super::*;
use crate::ids::ReplicaId;
use crate::ring::{Rules, ShardCount, Weight, Zone};
use crate::versions::{ClusterVersion, Spoken};

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
    let first = DataFolder::open(dir.path(), 7 << 32, Spoken::BUILD).unwrap().identity().clone();
    let second = DataFolder::open(dir.path(), 9 << 32, Spoken::BUILD).unwrap().identity().clone();
    assert_eq!((first.node, first.generation), (NodeId(7), Generation(1)));
    assert_eq!((second.node, second.generation), (NodeId(7), Generation(2)));
}

#[test]
fn two_processes_never_share_a_folder() {
    let dir = tempfile::tempdir().unwrap();
    let held = DataFolder::open(dir.path(), 1 << 32, Spoken::BUILD).unwrap();
    assert!(matches!(DataFolder::open(dir.path(), 1 << 32, Spoken::BUILD), Err(FolderError::InUse { .. })));
    drop(held);
    assert!(DataFolder::open(dir.path(), 1 << 32, Spoken::BUILD).is_ok());
}

#[test]
fn a_node_keeps_its_first_cluster() {
    let dir = tempfile::tempdir().unwrap();
    let mut folder = DataFolder::open(dir.path(), 1 << 32, Spoken::BUILD).unwrap();
    let (one, two) = (founding(1, &[1, 2, 3]), founding(2, &[1, 2, 3]));
    assert_eq!(folder.offer(one.clone()).unwrap(), one);
    folder.begin(&founding(1, &[3, 2, 1])).unwrap();
    folder.begin(&one).unwrap();
    assert_eq!(folder.offer(two.clone()).unwrap(), one);
    assert!(matches!(folder.begin(&two), Err(FolderError::OtherCluster { .. })));
    folder.withdraw(&one).unwrap();
    drop(folder);
    let again = DataFolder::open(dir.path(), 1 << 32, Spoken::BUILD).unwrap();
    assert_eq!(again.identity().charter, Some(one));
}

#[test]
fn of_two_offers_the_first_is_kept_until_it_is_withdrawn_and_only_it_can_begin() {
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = (founding(1, &[1, 2, 3]), founding(2, &[1, 2, 3]));
    let mut folder = DataFolder::open(dir.path(), 1 << 32, Spoken::BUILD).unwrap();
    assert!(matches!(folder.begin(&one), Err(FolderError::NotOffered { .. })));
    folder.offer(one.clone()).unwrap();
    drop(folder);
    let mut folder = DataFolder::open(dir.path(), 1 << 32, Spoken::BUILD).unwrap();
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
    drop(DataFolder::open(dir.path(), 1 << 32, Spoken::BUILD).unwrap());
    let path = dir.path().join("identity");
    let sound = std::fs::read(&path).unwrap();
    for at in 0..sound.len() {
        let mut damaged = sound.clone();
        damaged[at] ^= 0x40;
        std::fs::write(&path, &damaged).unwrap();
        let refused = DataFolder::open(dir.path(), 1 << 32, Spoken::BUILD);
        // Of a version that isn't known nothing else is looked at.
        let is_told = match refused {
            Err(FolderError::Record(RecordError::TooNew { .. })) => (8..12).contains(&at),
            Err(FolderError::Record(RecordError::Damaged { .. })) => true,
            _ => false,
        };
        assert!(is_told, "byte {at}");
        assert_eq!(std::fs::read(&path).unwrap(), damaged);
    }
    std::fs::write(&path, &sound[..10]).unwrap();
    assert!(DataFolder::open(dir.path(), 1 << 32, Spoken::BUILD).is_err());
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

/// The folder's files and what is in them.
fn content(dir: &Path) -> Vec<(std::ffi::OsString, Vec<u8>)> {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
    let mut files: Vec<_> = entries.map(|entry| (entry.file_name(), std::fs::read(entry.path()).unwrap())).collect();
    files.sort();
    files
}

#[test]
fn a_folder_of_the_first_version_is_as_builds_of_before_wrote_it_and_one_of_a_later_version_is_none_of_theirs() {
    let dir = tempfile::tempdir().unwrap();
    let mut folder = DataFolder::open(dir.path(), 7 << 32, Spoken::BUILD).unwrap();
    folder.keep_version(ClusterVersion::FIRST).unwrap();
    let bytes = std::fs::read(dir.path().join("identity")).unwrap();
    assert_eq!((&bytes[8..12], &bytes[16..]), (&[0, 0, 0, 1][..], &[0x82, 7, 1][..]));
    folder.keep_version(ClusterVersion(2)).unwrap();
    let bytes = std::fs::read(dir.path().join("identity")).unwrap();
    // Whoever reads version 1 only, as the build before did, refuses this.
    assert_eq!((&bytes[8..12], &bytes[16..]), (&[0, 0, 0, 2][..], &[0x85, 7, 1, 0xf6, 0xf6, 2][..]));
    let of_before: Result<Option<Identity>, _> =
        read_record(&crate::fs::DiskFs::open(dir.path()).unwrap(), "identity", IDENTITY_MAGIC);
    assert!(matches!(of_before, Err(RecordError::TooNew { found: 2, known: 1, .. })));
}

#[test]
fn a_folder_of_a_version_that_is_not_spoken_is_refused_with_what_to_do_and_stays_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let mut folder = DataFolder::open(dir.path(), 7 << 32, Spoken::BUILD).unwrap();
    folder.keep_version(ClusterVersion(2)).unwrap();
    folder.keep_version(ClusterVersion(1)).unwrap();
    assert_eq!(folder.identity().newest_version(), ClusterVersion(2), "it never goes back");
    drop(folder);
    let before = content(dir.path());
    let refused = DataFolder::open(dir.path(), 7 << 32, Spoken::FIRST).unwrap_err();
    assert!(matches!(refused, FolderError::Version { found: ClusterVersion(2), .. }), "{refused}");
    let told = refused.to_string();
    for word in ["version 2", "speaks 1:", "start a build that speaks it", "Nothing was changed"] {
        assert!(told.contains(word), "{told:?} without {word:?}");
    }
    assert_eq!(content(dir.path()), before);
    assert!(DataFolder::open(dir.path(), 7 << 32, Spoken::BUILD).is_ok());
}

#[test]
fn a_member_of_a_cluster_that_is_older_than_the_build_is_refused_and_a_node_of_no_cluster_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let later = Spoken::told(2, 3);
    let mut folder = DataFolder::open(dir.path(), 1 << 32, later).unwrap();
    folder.offer(founding(1, &[1, 2, 3])).unwrap();
    folder.begin(&founding(1, &[1, 2, 3])).unwrap();
    drop(folder);
    let before = content(dir.path());
    let refused = DataFolder::open(dir.path(), 1 << 32, later).unwrap_err().to_string();
    assert!(refused.contains("first start the build before"), "{refused}");
    assert_eq!(content(dir.path()), before);
}

#[test]
fn an_offer_of_a_later_version_that_is_withdrawn_leaves_nothing_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let later = founding(1, &[1, 2, 3]).at(ClusterVersion(2));
    DataFolder::open(dir.path(), 1 << 32, Spoken::BUILD).unwrap().offer(later.clone()).unwrap();
    let mut folder = DataFolder::open(dir.path(), 1 << 32, Spoken::BUILD).unwrap();
    assert_eq!(folder.identity().newest_version(), ClusterVersion(2), "who doesn't speak it can't begin with it");
    assert_eq!(folder.identity().cluster_version(), ClusterVersion(1), "the node is of no cluster yet");
    folder.withdraw(&later).unwrap();
    let first = founding(2, &[1, 2, 3]);
    folder.offer(first.clone()).unwrap();
    folder.begin(&first).unwrap();
    let identity = folder.identity();
    assert_eq!((identity.cluster_version(), identity.newest_version()), (ClusterVersion(1), ClusterVersion(1)));
    drop(folder);
    assert!(DataFolder::open(dir.path(), 1 << 32, Spoken::FIRST).is_ok());
}

#[test]
fn a_founding_record_of_a_later_version_makes_the_folder_one() {
    let dir = tempfile::tempdir().unwrap();
    let mut folder = DataFolder::open(dir.path(), 1 << 32, Spoken::BUILD).unwrap();
    let record = founding(1, &[1, 2, 3]);
    assert_eq!(record.clone().at(ClusterVersion(1)), record);
    folder.offer(record.at(ClusterVersion(2))).unwrap();
    drop(folder);
    assert!(matches!(DataFolder::open(dir.path(), 1 << 32, Spoken::FIRST), Err(FolderError::Version { .. })));
    let folder = DataFolder::open(dir.path(), 1 << 32, Spoken::BUILD).unwrap();
    assert_eq!(folder.identity().offered.as_ref().map(Charter::version), Some(ClusterVersion(2)));
}

#[test]
fn a_node_joins_a_cluster_that_has_begun_only_if_it_holds_no_founding_record() {
    let place = tempfile::tempdir().unwrap();
    let (ours, other) = (founding(1, &[1, 2, 3]), founding(2, &[1, 2, 3]));
    {
        let mut folder = DataFolder::open(place.path(), 7 << 32, Spoken::BUILD).unwrap();
        folder.join(&ours).unwrap();
        folder.join(&ours).unwrap();
        assert!(matches!(folder.join(&other), Err(FolderError::OtherCluster { .. })));
    }
    let folder = DataFolder::open(place.path(), 8 << 32, Spoken::BUILD).unwrap();
    assert_eq!(folder.identity().charter, Some(ours.clone()));
    let place = tempfile::tempdir().unwrap();
    let mut offered = DataFolder::open(place.path(), 7 << 32, Spoken::BUILD).unwrap();
    offered.offer(other).unwrap();
    assert!(matches!(offered.join(&ours), Err(FolderError::OtherCluster { .. })));
}
