//! How a node's process is restarted: by a command, as a local process, or by whoever reads what is said.

use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use super::super::super::context::Context;
use super::super::super::exit::Failure;
use super::super::super::output::span_of;
use super::super::Node;
use crate::local::LocalCluster;

/// The way.
#[derive(Clone, Debug)]
pub(super) enum How {
    /// By this command for a shell.
    Command(String),
    /// By the folder of a local cluster.
    Local(PathBuf),
    /// By a person, or another program.
    Hands,
}

impl How {
    /// The end of a sentence.
    pub(super) fn told(&self) -> String {
        match self {
            Self::Command(template) => format!("by `{template}`"),
            Self::Local(root) => format!("by its process of {}", root.display()),
            Self::Hands => "by you, when this says so".to_string(),
        }
    }

    /// Whether this can be done to these nodes at all.
    pub(super) fn check(&self, nodes: &[Node]) -> Result<(), Failure> {
        let Self::Command(template) = self else { return Ok(()) };
        nodes.iter().try_for_each(|node| filled(template, node).map(drop).map_err(Failure::Usage))
    }

    /// Restarts a node's process; what was done, in words.
    pub(super) async fn restart(&self, context: &Context, node: &Node, wait: Duration) -> Result<String, Failure> {
        match self {
            Self::Command(template) => {
                let command = filled(template, node).map_err(Failure::Usage)?;
                run(&command, wait).await?;
                Ok(format!("`{command}` ended with 0"))
            }
            Self::Local(root) => {
                let stopped = LocalCluster::open(root)?.restart(&node.node).await?;
                match stopped.is_well() {
                    true => Ok("its process was stopped and started".to_string()),
                    false => Ok(format!("it {stopped}; its process was started")),
                }
            }
            Self::Hands => {
                context.note(&format!("restart {} now: it is waited for, at most {}", node.node, span_of(wait)));
                Ok("asked for".to_string())
            }
        }
    }
}

/// The command for a node. What stands in for its parts comes from the cluster, so nothing that a shell obeys is let in.
fn filled(template: &str, node: &Node) -> Result<String, String> {
    let admin = node.admin_endpoint.strip_prefix("http://").unwrap_or(&node.admin_endpoint);
    let host = admin.rsplit_once(':').map_or(admin, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let mut command = template.to_string();
    for (place, value) in [("{node}", node.node.as_str()), ("{admin}", admin), ("{host}", host)] {
        if command.contains(place) {
            let plain = |c: char| {
                c.is_ascii_alphanumeric() || "._:@%+-".contains(c) || (place == "{admin}" && "[]".contains(c))
            };
            if value.is_empty() || value.starts_with('-') || !value.chars().all(plain) {
                return Err(format!(
                    "{place} of node {:?} is {value:?}: a shell could take that for something else",
                    node.node
                ));
            }
            command = command.replace(place, value);
        }
    }
    Ok(command)
}

/// Runs a command; what it writes goes to standard error, since standard output is for the answer.
async fn run(command: &str, wait: Duration) -> Result<(), Failure> {
    let out = std::io::stderr().as_fd().try_clone_to_owned()?;
    let mut shell = tokio::process::Command::new("sh");
    // Not killed when this program ends, and in a process group of its own, so that Ctrl-C in the terminal does not reach it: half
    // of a restart is worse than a restart that nobody watches.
    shell.arg("-c").arg(command).stdin(Stdio::null()).stdout(Stdio::from(out)).process_group(0);
    let mut child = shell.spawn()?;
    match tokio::time::timeout(wait, child.wait()).await {
        Ok(ended) => {
            let ended = ended?;
            let how = ended.code().map_or_else(|| ended.to_string(), |code| format!("exit code {code}"));
            if ended.success() { Ok(()) } else { Err(Failure::error(format!("`{command}` ended with {how}"))) }
        }
        Err(_) => Err(Failure::error(format!("`{command}` still runs after {}", span_of(wait)))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::v1;

    fn node(name: &str, admin: &str) -> Node {
        Node::from(v1::NodeStatus { node: name.into(), admin_endpoint: admin.into(), ..Default::default() })
    }

    #[test]
    fn a_command_is_filled_in_for_its_node() {
        let n2 = node("n2", "http://10.0.0.2:7402");
        let template = "ssh {host} systemctl restart playhead@{node} # {admin}";
        let filled = super::filled(template, &n2).unwrap();
        assert_eq!(filled, "ssh 10.0.0.2 systemctl restart playhead@n2 # 10.0.0.2:7402");
        let six = node("n2", "http://[fd00::2]:7402");
        assert_eq!(super::filled("{host} {admin}", &six).unwrap(), "fd00::2 [fd00::2]:7402");
    }

    #[test]
    fn a_name_that_a_shell_would_obey_is_refused() {
        for name in ["n2; reboot", "$(reboot)", "`x`", "a b", "-rf", "a'b", "a\nb", "a|b", "n*"] {
            assert!(super::filled("restart {node}", &node(name, "")).is_err(), "{name}");
            assert!(super::filled("restart it", &node(name, "")).is_ok());
        }
        assert!(super::filled("ssh {host}", &node("n", "")).is_err());
    }

    #[tokio::test]
    async fn ctrl_c_in_the_terminal_reaches_no_command() {
        // The fifth field is the process group: of a shell that was started in one of its own, its own number.
        let own = "set -- $(cat /proc/$$/stat); [ \"$1\" = \"$5\" ]";
        run(own, Duration::from_secs(60)).await.unwrap();
    }

    #[tokio::test]
    async fn a_command_that_fails_or_hangs_is_told() {
        assert!(run("exit 0", Duration::from_secs(60)).await.is_ok());
        let failed = run("exit 7", Duration::from_secs(60)).await.unwrap_err().to_string();
        assert!(failed.contains("exit code 7"), "{failed}");
        let hangs = run("sleep 1", Duration::from_millis(1)).await.unwrap_err().to_string();
        assert!(hangs.contains("still runs"), "{hangs}");
    }
}
