//! What a case expects of an answer.

use serde_json::Value;

/// Which ends refuse; or only whether any does, where a case says no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cell {
    Allowed,
    Egress,
    Ingress,
    Both,
    /// By whichever end.
    Refused,
}

impl Cell {
    /// The notation of the tables; `None` for what is no question.
    pub(crate) fn of(letter: char) -> Option<Cell> {
        match letter {
            '.' => Some(Cell::Allowed),
            'E' => Some(Cell::Egress),
            'I' => Some(Cell::Ingress),
            'X' => Some(Cell::Both),
            _ => None,
        }
    }

    pub(crate) fn allowed(allowed: bool) -> Cell {
        if allowed { Cell::Allowed } else { Cell::Refused }
    }

    pub(crate) fn is(self, answer: &Value) -> bool {
        match (self, cell(answer)) {
            (_, None) => false,
            (Cell::Refused, Some(found)) => found != Cell::Allowed,
            (expected, Some(found)) => expected == found,
        }
    }
}

/// What an answer line says. `None`: it contradicts itself.
pub(crate) fn cell(answer: &Value) -> Option<Cell> {
    let refuses = |end: &str| answer[end]["verdict"] == "deny";
    let cell = match (refuses("egress"), refuses("ingress")) {
        (false, false) => Cell::Allowed,
        (true, false) => Cell::Egress,
        (false, true) => Cell::Ingress,
        (true, true) => Cell::Both,
    };
    let verdict = if cell == Cell::Allowed { "allow" } else { "deny" };
    (answer["verdict"] == verdict).then_some(cell)
}
