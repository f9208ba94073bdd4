//! What a run says at its end: to a person, and to a program.

use serde::Serialize;

use crate::rounds::Outcome;
use crate::row::{Reach, median};

/// The table, one line per row.
pub(crate) fn table(outcomes: &[Outcome]) -> String {
    let head = ["row", "what", "ours", "rival", "unit", "who", "ratio", "of rounds", "reach", ""].map(String::from);
    let mut lines = vec![head];
    for outcome in outcomes {
        let (least, most) = outcome.ratio_range();
        lines.push([
            outcome.id.clone(),
            outcome.description.clone(),
            number(median(&outcome.ours)),
            number(median(&outcome.rival)),
            String::from(outcome.unit),
            String::from(outcome.rival_name),
            format!("{:.2}", outcome.ratio()),
            format!("{least:.2}-{most:.2}"),
            match outcome.reach {
                Reach::Part(part) => format!("{part:.2}"),
                Reach::Cost(cost) => format!("{} {}", number(cost), outcome.unit),
            },
            String::from(if outcome.is_met() { "met" } else { "MISSED" }),
        ]);
    }
    let width = |column: usize| lines.iter().map(|line| line[column].len()).max().unwrap_or(0);
    let widths: [usize; 10] = std::array::from_fn(width);
    let mut text = String::new();
    for line in &lines {
        for (column, (cell, width)) in line.iter().zip(widths).enumerate() {
            match column {
                // Numbers line up at their ends.
                2 | 3 | 6 | 8 => text.push_str(&format!("{cell:>width$}  ")),
                _ => text.push_str(&format!("{cell:<width$}  ")),
            }
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
    }
    text
}

fn number(cost: f64) -> String {
    if cost < 100.0 { format!("{cost:.1}") } else { format!("{cost:.0}") }
}

/// All that is known, as JSON.
pub(crate) fn json(outcomes: &[Outcome]) -> Result<String, serde_json::Error> {
    let rows: Vec<JsonRow<'_>> = outcomes.iter().map(JsonRow::of).collect();
    serde_json::to_string_pretty(&Json { version: env!("CARGO_PKG_VERSION"), rows })
}

#[derive(Serialize)]
struct Json<'a> {
    version: &'static str,
    rows: Vec<JsonRow<'a>>,
}

#[derive(Serialize)]
struct JsonRow<'a> {
    id: &'a str,
    description: &'a str,
    unit: &'a str,
    rival_name: &'a str,
    /// Medians.
    ours: f64,
    rival: f64,
    ratio: f64,
    ratio_min: f64,
    ratio_max: f64,
    /// At most this part of the rival's, or this much: one of the two is there.
    #[serde(skip_serializing_if = "Option::is_none")]
    reach_ratio: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reach_cost: Option<f64>,
    met: bool,
    ours_by_round: &'a [f64],
    rival_by_round: &'a [f64],
}

impl JsonRow<'_> {
    fn of(outcome: &Outcome) -> JsonRow<'_> {
        let (ratio_min, ratio_max) = outcome.ratio_range();
        let (reach_ratio, reach_cost) = match outcome.reach {
            Reach::Part(part) => (Some(part), None),
            Reach::Cost(cost) => (None, Some(cost)),
        };
        JsonRow {
            id: &outcome.id,
            description: &outcome.description,
            unit: outcome.unit,
            rival_name: outcome.rival_name,
            ours: median(&outcome.ours),
            rival: median(&outcome.rival),
            ratio: outcome.ratio(),
            ratio_min,
            ratio_max,
            reach_ratio,
            reach_cost,
            met: outcome.is_met(),
            ours_by_round: &outcome.ours,
            rival_by_round: &outcome.rival,
        }
    }
}
