//! The commands in a batch's body: each as its length (4 bytes, big-endian) and its encoding.

use super::{Machine, Stop};

/// Appends `command` to `body`; how many bytes it took.
pub(crate) fn push<M: Machine>(command: &M::Command, body: &mut Vec<u8>) -> usize {
    let start = body.len();
    body.extend_from_slice(&[0; 4]);
    M::encode(command, body);
    let len = u32::try_from(body.len() - start - 4).expect("commands are refused far below 4 GiB");
    body[start..start + 4].copy_from_slice(&len.to_be_bytes());
    body.len() - start
}

/// All commands of a body that must have `count` of them.
pub(crate) fn decode<M: Machine>(mut body: &[u8], count: u32) -> Result<Vec<M::Command>, Stop> {
    let cut = || Stop("a batch ends in the middle of a command".to_string());
    let mut commands = Vec::with_capacity(usize::try_from(count).unwrap_or(0).min(body.len() / 4));
    while !body.is_empty() {
        let (len, rest) = body.split_first_chunk::<4>().ok_or_else(cut)?;
        let len = usize::try_from(u32::from_be_bytes(*len)).map_err(|_| cut())?;
        let (command, rest) = rest.split_at_checked(len).ok_or_else(cut)?;
        commands.push(M::decode(command)?);
        body = rest;
    }
    match commands.len() == count as usize {
        true => Ok(commands),
        false => Err(Stop(format!("a batch of {count} commands has {}", commands.len()))),
    }
}

/// The body of an entry with these commands: for [`Group::submit_encoded`](crate::raft::Group::submit_encoded), on whichever node.
pub fn encode_commands<M: Machine>(commands: &[M::Command]) -> Vec<u8> {
    let mut body = Vec::with_capacity(128 * commands.len());
    for command in commands {
        push::<M>(command, &mut body);
    }
    body
}
