//! The floors, as the table in `lib.rs` tells them.

use std::path::Path;

/// Every module's place, ground first.
pub(crate) struct Table {
    /// Floor, place on it from the left, name, line in `lib.rs`.
    modules: Vec<(usize, usize, String, usize)>,
}

impl Table {
    /// Reads the rows `//! | 0 ground: ... | [`a`], [`b`] |`.
    pub(crate) fn read(lib: &Path) -> Self {
        let text = std::fs::read_to_string(lib).unwrap();
        let mut modules = Vec::new();
        for (line, row) in (1..).zip(text.lines()) {
            let Some(row) = row.strip_prefix("//! | ") else { continue };
            let mut cells = row.split('|').map(str::trim);
            let floor = cells.next().and_then(|c| c.split(' ').next()).and_then(|number| number.parse().ok());
            let (Some(floor), Some(names)) = (floor, cells.next()) else { continue };
            let names = names.split(',').filter_map(|n| n.trim().strip_prefix("[`")?.strip_suffix("`]"));
            for (place, name) in names.enumerate() {
                modules.push((floor, place, name.to_string(), line));
            }
        }
        assert!(!modules.is_empty(), "{} has no table of floors", lib.display());
        Self { modules }
    }

    /// Floor and place of a module.
    pub(crate) fn place(&self, module: &str) -> Option<(usize, usize)> {
        self.modules.iter().find(|(_, _, name, _)| name == module).map(|&(floor, place, _, _)| (floor, place))
    }

    /// Every module of the table with its line in `lib.rs`.
    pub(crate) fn modules(&self) -> impl Iterator<Item = (&str, usize)> {
        self.modules.iter().map(|(_, _, name, line)| (name.as_str(), *line))
    }
}
