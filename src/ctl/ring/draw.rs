//! The ring as a circle of letters: each cell shows the node that owns most of the tokens behind it.

use std::f64::consts::TAU;

use super::super::output::paint;

/// Colours of nodes, as ANSI numbers; the eighth node begins again.
pub(super) const COLOURS: [u8; 7] = [36, 33, 35, 32, 34, 31, 96];
/// Rows of the drawing; a cell of a terminal is about twice as high as wide.
const ROWS: usize = 19;
const COLUMNS: usize = 41;

/// The letter of the node with this number: `A` to `Z`, then `a` to `z`, then `#`.
pub(super) fn letter(node: usize) -> char {
    let letters = ('A'..='Z').chain('a'..='z');
    letters.clone().nth(node).unwrap_or('#')
}

/// Draws points, sorted by token, each with the number of its node; `middle` is written inside.
pub(super) fn ring(points: &[(u64, usize)], middle: &[String]) -> Vec<String> {
    let mut rows = Vec::with_capacity(ROWS);
    for row in 0..ROWS {
        let mut line = String::new();
        let text = middle.get((row + middle.len() / 2).wrapping_sub(ROWS / 2)).map(String::as_str).unwrap_or_default();
        let width = text.chars().count();
        let begin = (COLUMNS / 2).saturating_sub(width / 2);
        let mut inside = text.chars();
        for column in 0..COLUMNS {
            match angle_of(row, column) {
                Some(angle) => match owner(points, angle) {
                    Some(node) => line.push_str(&paint(&letter(node).to_string(), COLOURS[node % COLOURS.len()])),
                    None => line.push('·'),
                },
                None if (begin..begin + width).contains(&column) => line.push(inside.next().unwrap_or(' ')),
                None => line.push(' '),
            }
        }
        rows.push(line.trim_end().to_string());
    }
    rows
}

/// The part of the circle, 0 to 1 clockwise from the top, that a cell lies on; `None` off the circle.
fn angle_of(row: usize, column: usize) -> Option<f64> {
    let y = (ROWS / 2) as f64 - row as f64;
    let x = (column as f64 - (COLUMNS / 2) as f64) / (COLUMNS / 2) as f64 * (ROWS / 2) as f64;
    let radius = (ROWS / 2) as f64;
    ((x.hypot(y) - (radius - 0.75)).abs() < 0.8).then(|| x.atan2(y).rem_euclid(TAU) / TAU)
}

/// The node that owns most of the tokens about an angle: a token belongs to the first point at or after it.
fn owner(points: &[(u64, usize)], angle: f64) -> Option<usize> {
    const PROBES: i32 = 9;
    const CELL: f64 = 1.0 / 96.0;
    let mut votes: Vec<(usize, usize)> = Vec::new();
    for probe in 0..PROBES {
        let at = (angle + CELL * (f64::from(probe) / f64::from(PROBES - 1) - 0.5)).rem_euclid(1.0);
        let token = (at * 2f64.powi(64)) as u64;
        let next = points.partition_point(|(point, _)| *point < token);
        let (_, node) = points.get(next).or(points.first())?;
        match votes.iter_mut().find(|(of, _)| of == node) {
            Some((_, count)) => *count += 1,
            None => votes.push((*node, 1)),
        }
    }
    votes.into_iter().max_by_key(|(node, count)| (*count, usize::MAX - node)).map(|(node, _)| node)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_nodes_that_own_half_each_are_drawn_as_two_halves() {
        // Node 0 owns the tokens up to the middle: the right half, clockwise from the top.
        let rows = ring(&[(1 << 63, 0), (u64::MAX, 1)], &["64 shards".into(), "epoch 1".into()]);
        assert_eq!(rows.len(), ROWS);
        assert!(rows.iter().all(|row| row.chars().count() <= COLUMNS));
        let middle = rows[ROWS / 2].trim();
        assert!(middle.starts_with('B') && middle.ends_with('A'), "{middle}");
        assert!(rows.iter().any(|row| row.contains("64 shards")));
    }

    #[test]
    fn an_empty_ring_is_drawn_empty() {
        assert!(ring(&[], &[]).iter().all(|row| row.chars().all(|c| c == '·' || c == ' ')));
    }

    #[test]
    fn letters_do_not_run_out() {
        assert_eq!([letter(0), letter(26), letter(52), letter(99)], ['A', 'a', '#', '#']);
    }
}
