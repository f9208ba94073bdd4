//! Plays rows in rounds, both sides in turn, so that whatever else the machine does falls on both.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use crate::row::{Failure, Reach, Row, median};

/// What came of a row.
pub(crate) struct Outcome {
    pub(crate) id: String,
    pub(crate) description: String,
    pub(crate) unit: &'static str,
    pub(crate) reach: Reach,
    pub(crate) rival_name: &'static str,
    /// By round.
    pub(crate) ours: Vec<f64>,
    pub(crate) rival: Vec<f64>,
}

impl Outcome {
    /// Our cost as a part of the rival's, by medians.
    pub(crate) fn ratio(&self) -> f64 {
        median(&self.ours) / median(&self.rival)
    }

    /// The same of the round that was best for us, and of the worst.
    pub(crate) fn ratio_range(&self) -> (f64, f64) {
        let ratios = self.ours.iter().zip(&self.rival).map(|(ours, rival)| ours / rival);
        ratios.fold((f64::INFINITY, 0.0), |(least, most), ratio| (least.min(ratio), most.max(ratio)))
    }

    pub(crate) fn is_met(&self) -> bool {
        match self.reach {
            Reach::Part(part) => self.ratio() <= part,
            Reach::Cost(cost) => median(&self.ours) <= cost,
        }
    }
}

/// Plays `rounds` rounds of every row, each side of a round for about `time`. Tells on stderr how far it is.
///
/// # Errors
/// The first of a side's.
pub(crate) fn play(rows: Vec<Row>, rounds: usize, time: Duration) -> Result<Vec<Outcome>, Failure> {
    let count = rows.len();
    let mut outcomes = Vec::new();
    for (number, row) in (1..).zip(rows) {
        let Row { id, description, unit, reach, rival_name, ours, rival } = row;
        let mut outcome = Outcome { id, description, unit, reach, rival_name, ours: Vec::new(), rival: Vec::new() };
        let (mut ours, mut rival) = (ours()?, rival()?);
        // The first round of each is for the caches, and for what a side makes when it is used first.
        ours(time / 4)?;
        rival(time / 4)?;
        for round in 1..=rounds {
            tell(&format!("row {number} of {count}, round {round} of {rounds}: {}", outcome.id), round == 1);
            outcome.ours.push(ours(time)?);
            outcome.rival.push(rival(time)?);
        }
        outcomes.push(outcome);
    }
    tell("", false);
    Ok(outcomes)
}

/// Writes over the line before; where nobody watches, only the lines that matter to a log.
fn tell(text: &str, matters: bool) {
    let mut out = std::io::stderr();
    // Nobody to tell is no failure.
    let _ = match out.is_terminal() {
        true => write!(out, "\r\x1b[K{text}").and_then(|()| out.flush()),
        false if matters => writeln!(out, "{text}"),
        false => Ok(()),
    };
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use super::*;

    /// A row whose sides give these costs in turn, after one that does not count; and who was played when.
    fn row(ours: &'static [f64], rival: &'static [f64], reach: Reach) -> (Row, Rc<RefCell<String>>) {
        let played = Rc::new(RefCell::new(String::new()));
        let side = |costs: &'static [f64], sign: char| -> crate::row::Setup {
            let played = played.clone();
            let mut costs = std::iter::once(&1e9).chain(costs);
            Box::new(move || {
                Ok(Box::new(move |_| {
                    played.borrow_mut().push(sign);
                    Ok(*costs.next().expect("as many as rounds"))
                }))
            })
        };
        let (ours, rival) = (side(ours, 'A'), side(rival, 'B'));
        let row =
            Row { id: "a/b".into(), description: "c".into(), unit: "ns", reach, rival_name: "other", ours, rival };
        (row, played)
    }

    #[test]
    fn sides_play_in_turn_and_medians_count() {
        let (row, played) = row(&[2.0, 1.0, 9.0], &[4.0, 5.0, 6.0], Reach::Part(0.4));
        let outcome = play(vec![row], 3, Duration::ZERO).expect("no side fails").pop().expect("one row");
        assert_eq!(*played.borrow(), "ABABABAB");
        assert_eq!((outcome.ratio(), outcome.ratio_range()), (0.4, (0.2, 1.5)));
        assert!(outcome.is_met());
    }

    #[test]
    fn a_row_beyond_its_reach_is_missed() {
        let (row, _) = row(&[2.1], &[4.0], Reach::Part(0.5));
        let outcomes = play(vec![row], 1, Duration::ZERO).expect("no side fails");
        assert!(!outcomes[0].is_met());
        let table = crate::report::table(&outcomes);
        assert!(
            table.lines().nth(1).is_some_and(|line| line.starts_with("a/b") && line.ends_with("MISSED")),
            "{table}"
        );
        let json = crate::report::json(&outcomes).expect("numbers and words");
        let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
        let row = &json["rows"][0];
        assert_eq!((&row["ours"], &row["rival"], &row["met"]), (&2.1.into(), &4.0.into(), &false.into()));
    }

    #[test]
    fn a_reach_may_be_a_cost_of_its_own() {
        let check = |most: f64, met: bool| {
            let (row, _) = row(&[2.1], &[1.0], Reach::Cost(most));
            assert_eq!(play(vec![row], 1, Duration::ZERO).expect("no side fails")[0].is_met(), met, "{most}");
        };
        check(2.1, true);
        check(2.0, false);
    }
}
