//! Which cluster version can be raised to, by what nodes say. Pure.

use crate::proto::v1;
use crate::versions::{ClusterVersion, Spoken, TABLE};

/// A node, as the answering node sees it.
#[derive(Clone, Debug)]
pub(super) struct SeenNode {
    /// Its name.
    pub(super) name: String,
    /// Whether it pulses.
    pub(super) alive: bool,
    /// What it speaks; `None`: it was never heard.
    pub(super) spoken: Option<Spoken>,
}

/// The newest version that any node speaks, and never less than the cluster has.
pub(super) fn newest(cluster: ClusterVersion, nodes: &[SeenNode]) -> ClusterVersion {
    nodes.iter().filter_map(|node| node.spoken).map(|spoken| spoken.newest).fold(cluster, ClusterVersion::max)
}

/// Why a cluster of this version can't have `wanted`: nothing, if it can or has it.
pub(super) fn obstacles(cluster: ClusterVersion, wanted: ClusterVersion, nodes: &[SeenNode]) -> Vec<String> {
    if wanted == cluster {
        return Vec::new();
    }
    if wanted < cluster {
        return vec![format!("the cluster has version {cluster}, and a version never goes back")];
    }
    let of = |node: &SeenNode| match (node.alive, node.spoken) {
        (_, None) => Some(format!("{} was not heard: what it speaks is not known", node.name)),
        (false, Some(_)) => Some(format!("{} is silent: what it speaks when it comes back is not known", node.name)),
        (true, Some(spoken)) if !spoken.speaks(wanted) => {
            Some(format!("{} speaks {spoken}: change its build, or lift its compat.version_max", node.name))
        }
        (true, Some(_)) => None,
    };
    nodes.iter().filter_map(of).collect()
}

/// What comes with the versions after `from` up to `to`.
pub(super) fn switched_on(from: ClusterVersion, to: ClusterVersion) -> Vec<v1::VersionInfo> {
    let rows = TABLE.iter().filter(|row| row.version > from && row.version <= to);
    rows.map(|row| v1::VersionInfo { version: row.version.0, since: row.since.to_string(), what: row.what.to_string() })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes(of: &[(bool, Option<Spoken>)]) -> Vec<SeenNode> {
        let node = |(at, (alive, spoken)): (usize, &(bool, Option<Spoken>))| SeenNode {
            name: format!("n{}", at + 1),
            alive: *alive,
            spoken: *spoken,
        };
        of.iter().enumerate().map(node).collect()
    }

    const FIRST: ClusterVersion = ClusterVersion(1);
    const SECOND: ClusterVersion = ClusterVersion(2);

    #[test]
    fn a_cluster_can_have_what_every_node_that_is_heard_speaks() {
        let both = Some(Spoken::told(1, 2));
        let all = nodes(&[(true, both), (true, both), (true, both)]);
        assert_eq!((newest(FIRST, &all), obstacles(FIRST, SECOND, &all)), (SECOND, vec![]));
        assert_eq!(newest(SECOND, &all), SECOND);
    }

    #[test]
    fn every_node_in_the_way_is_named_with_its_reason() {
        let all = nodes(&[
            (true, Some(Spoken::told(1, 2))),
            (true, Some(Spoken::FIRST)),
            (false, Some(Spoken::told(1, 2))),
            (false, None),
        ]);
        let told = obstacles(FIRST, SECOND, &all);
        assert_eq!(told.len(), 3, "{told:?}");
        assert!(told[0].starts_with("n2 speaks 1:"), "{told:?}");
        assert!(told[1].starts_with("n3 is silent") && told[2].starts_with("n4 was not heard"), "{told:?}");
        assert_eq!(newest(FIRST, &all), SECOND);
    }

    #[test]
    fn what_the_cluster_has_is_no_obstacle_whoever_is_silent_and_it_never_goes_back() {
        let silent = nodes(&[(false, None)]);
        assert!(obstacles(SECOND, SECOND, &silent).is_empty());
        assert_eq!(obstacles(SECOND, FIRST, &silent).len(), 1);
    }

    #[test]
    fn what_is_switched_on_is_what_lies_between() {
        assert!(switched_on(SECOND, SECOND).is_empty());
        let between = switched_on(FIRST, SECOND);
        assert_eq!(between.iter().map(|info| info.version).collect::<Vec<_>>(), [2]);
    }
}
