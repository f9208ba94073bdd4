//! How often what happens. Drawn anew for every seed: calm seas, droughts and storms each show other mistakes, and no
//! one mix of events shows all.

use super::support::Dice;
use super::world::Spice;

/// One thing that can happen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Event {
    /// Time passes: everywhere if clocks go together, else for somebody.
    Tick,
    Deliver,
    Ready,
    Write,
    Apply,
    Propose,
    Read,
    Campaign,
    Transfer,
    Restart,
    /// Everybody's power fails at once.
    Blackout,
    CutOff,
    Heal,
    Compact,
    Unreachable,
    ChangeConf,
    ForgetLeader,
    Lose,
    Stall,
    /// A member's shell gives another one another window, or takes back memory.
    Tune,
}

/// What a run has most of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Theme {
    /// Everything in measure.
    Plain,
    /// Elections: by hand, by hand-over, and because nobody hears the leader.
    Duels,
    /// Reads, and leaders that do not know that they are cut off.
    Reads,
    /// Elections, with one disk that is slow: writes of several leaders wait for it.
    SlowDisk,
    /// Logs that are cut right behind what is applied, and members that are too far behind.
    Snapshots,
}

/// What one run is like.
#[derive(Clone, Debug)]
pub(crate) struct Weather {
    pub(crate) theme: Theme,
    /// Events with the sum of the weights up to them.
    events: Vec<(usize, Event)>,
    /// Messages lost and repeated, and messages put off for long, per thousand.
    pub(crate) lost: usize,
    /// As many more of those that carry entries, but to the first member: where few get through, logs part.
    pub(crate) entries_lost: usize,
    pub(crate) repeated: usize,
    pub(crate) late: usize,
    /// Among how many of the oldest messages the next one is drawn.
    pub(crate) window: usize,
    /// Whether all clocks tick at once.
    pub(crate) together: bool,
}

impl Weather {
    pub(crate) fn draw(dice: &mut Dice, spice: Spice, members: usize) -> Weather {
        let themes = [Theme::Plain, Theme::Duels, Theme::Reads, Theme::SlowDisk, Theme::Snapshots];
        let theme = themes[dice.below(themes.len())];
        let together = spice == Spice::Leases || dice.one_in(2);
        let duels = if matches!(theme, Theme::Duels | Theme::SlowDisk) { 4 } else { 1 };
        let cuts = if theme == Theme::Plain { 1 } else { 2 };
        let reads = if theme == Theme::Reads { 6 } else { 1 };
        let compacts = if theme == Theme::Snapshots { 6 } else { 1 };
        // What must go on for anything to come about is never rare; the rest may be left out.
        let mut events = vec![
            (steady(dice, if together { 10 } else { 10 * members }), Event::Tick),
            (steady(dice, 600), Event::Deliver),
            (steady(dice, 400), Event::Ready),
            (steady(dice, 250), Event::Write),
            (steady(dice, 100), Event::Apply),
            (steady(dice, 80), Event::Propose),
            (reads * now_and_then(dice, 40), Event::Read),
            (duels * now_and_then(dice, 3), Event::Campaign),
            (duels * now_and_then(dice, 4), Event::Transfer),
            (now_and_then(dice, 4), Event::Restart),
            (now_and_then(dice, 1), Event::Blackout),
            (cuts * now_and_then(dice, 6), Event::CutOff),
            (cuts * steady(dice, 4), Event::Heal),
            (compacts * now_and_then(dice, 20), Event::Compact),
            (now_and_then(dice, 4), Event::Unreachable),
            (now_and_then(dice, 3), Event::ForgetLeader),
        ];
        match spice {
            Spice::ConfChanges => events.push((steady(dice, 25), Event::ChangeConf)),
            Spice::Witnesses => {
                events.push((steady(dice, 25), Event::ChangeConf));
                events.push((now_and_then(dice, 4), Event::Stall));
            }
            Spice::Nothing => events.push((now_and_then(dice, 6), Event::Tune)),
            Spice::Losses => events.push((steady(dice, 6), Event::Lose)),
            Spice::Stalls => events.push((steady(dice, 8), Event::Stall)),
            _ => {}
        }
        let mut sum = 0;
        for (weight, _) in &mut events {
            sum += *weight;
            *weight = sum;
        }
        Weather {
            theme,
            events,
            lost: [0, 10, 50, 200][dice.below(4)],
            entries_lost: if duels > 1 { [0, 300, 600, 900][dice.below(4)] } else { 0 },
            repeated: [0, 20, 100, 400][dice.below(4)],
            late: [0, 10, 50, 200][dice.below(4)],
            window: [1, 3, 12, 100][dice.below(4)],
            together,
        }
    }

    /// What happens next.
    pub(crate) fn next(&self, dice: &mut Dice) -> Event {
        let (sum, _) = self.events.last().expect("something can happen");
        let at = dice.below(*sum);
        self.events.iter().find(|(upto, _)| at < *upto).expect("within the sum").1
    }
}

/// One of three speeds.
fn steady(dice: &mut Dice, weight: usize) -> usize {
    weight * [1, 2, 4][dice.below(3)]
}

/// Not at all, as usual, or often.
fn now_and_then(dice: &mut Dice, weight: usize) -> usize {
    weight * [0, 1, 1, 4][dice.below(4)]
}
