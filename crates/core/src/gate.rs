//! The gate of an instance: whether its new connections go to the engine, wait, or are refused.
//!
//! ```text
//!               Hold                     Open, or the deadline while the engine before is still there
//!    Open  ------------->  Holding  ------------------------------------------------------------------> Open
//!      |  the engine ended    |  behind: Nobody -> Unproven (Started) -> Nobody (Ended)
//!      +--------------------->|
//!                             |  the deadline, nobody who may be let in
//!                             v            Open
//!                          Refusing  -------------> Open          (behind it an engine may start meanwhile)
//! ```
//!
//! Pure: which sockets there are and who listens is in the agent. Times are milliseconds of a clock that never jumps.
//!
//! Guarantees, each asserted over all sequences of events:
//! - clients get to an engine only by [`Event::Open`], or back to one that they had before;
//! - nobody waits beyond the deadline that holding began with, unless [`Event::Hold`] sets another;
//! - the end of the engine never opens anything.

use serde::{Deserialize, Serialize};

/// How far a gate can keep its promises on this host, the strongest last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// The engine binds its port itself. Nothing is held: while it is down, connections are refused.
    Own,
    /// One socket that outlives engines, handed to each when it is let in. Nothing is refused. An engine that cannot open its
    /// port while it runs (Redis before 7.0) is seen loading.
    Shared,
    /// A socket for each engine, and one where connections wait. Nothing is refused, and no engine is seen before it is let in.
    Steered,
}

impl Level {
    /// The name in settings, records and displays.
    pub fn name(self) -> &'static str {
        match self {
            Self::Own => "own",
            Self::Shared => "shared",
            Self::Steered => "steered",
        }
    }
}

/// Who is behind a gate that is not open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Behind {
    /// No engine.
    Nobody,
    /// The engine that clients had until the gate was closed. They may have it again.
    Known,
    /// An engine that no client has reached.
    Unproven,
}

/// A gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub enum Gate {
    /// New connections go to the engine.
    Open,
    /// New connections wait, until then at the longest.
    Holding { until: u64, behind: Behind },
    /// New connections are refused: whoever was waited for did not come in time.
    Refusing { behind: Behind },
}

/// What happens to a gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Let new connections wait, until then. Sets the deadline of a gate that holds already.
    Hold { until: u64 },
    /// An engine was started. It is for the gate to decide when it is seen.
    Started,
    /// Let clients in.
    Open,
    /// The engine ended. Connections wait for the next one, until then, if they had been let in.
    Ended { until: u64 },
    /// Nobody will come: refuse.
    Refuse,
    /// It is so late.
    Late { now: u64 },
}

/// Why an event does not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// There is an engine behind the gate already.
    #[error("an engine is behind the gate already")]
    Occupied,
    /// There is none.
    #[error("no engine is behind the gate")]
    Vacant,
}

impl Gate {
    /// What becomes of the gate. `level` decides whether an engine that clients had can be let back in by the gate alone.
    pub fn apply(self, event: Event, level: Level) -> Result<Self, Unfit> {
        let behind = self.behind();
        Ok(match event {
            Event::Hold { until } => Self::Holding { until, behind },
            Event::Started => match self {
                Self::Holding { until, behind: Behind::Nobody } => Self::Holding { until, behind: Behind::Unproven },
                Self::Refusing { behind: Behind::Nobody } => Self::Refusing { behind: Behind::Unproven },
                Self::Open | Self::Holding { .. } | Self::Refusing { .. } => return Err(Unfit::Occupied),
            },
            Event::Open if behind == Behind::Nobody => return Err(Unfit::Vacant),
            Event::Open => Self::Open,
            Event::Ended { until } => match self {
                Self::Open => Self::Holding { until, behind: Behind::Nobody },
                Self::Holding { until, .. } => Self::Holding { until, behind: Behind::Nobody },
                Self::Refusing { .. } => Self::Refusing { behind: Behind::Nobody },
            },
            Event::Refuse => Self::Refusing { behind },
            Event::Late { now } => match self {
                Self::Holding { until, .. } if now < until => self,
                Self::Holding { behind: Behind::Known, .. } if level == Level::Steered => Self::Open,
                Self::Holding { behind, .. } => Self::Refusing { behind },
                Self::Open | Self::Refusing { .. } => self,
            },
        })
    }

    /// Who is behind it. Behind an open gate is whom clients have.
    pub fn behind(self) -> Behind {
        match self {
            Self::Open => Behind::Known,
            Self::Holding { behind, .. } | Self::Refusing { behind } => behind,
        }
    }

    /// When it is late, if something is waited for.
    pub fn deadline(self) -> Option<u64> {
        match self {
            Self::Holding { until, .. } => Some(until),
            Self::Open | Self::Refusing { .. } => None,
        }
    }

    /// What becomes of a new connection.
    pub fn stance(self) -> Stance {
        match self {
            Self::Open => Stance::Open,
            Self::Holding { .. } => Stance::Holding,
            Self::Refusing { .. } => Stance::Refusing,
        }
    }
}

/// What becomes of a new connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stance {
    Open,
    Holding,
    Refusing,
}

impl Stance {
    /// The name in displays and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Holding => "holding",
            Self::Refusing => "refusing",
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Behind, Event, Gate, Level, Unfit};

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            (0..50u64).prop_map(|until| Event::Hold { until }),
            Just(Event::Started),
            Just(Event::Open),
            (0..50u64).prop_map(|until| Event::Ended { until }),
            Just(Event::Refuse),
            (0..50u64).prop_map(|now| Event::Late { now }),
        ]
    }

    fn level() -> impl Strategy<Value = Level> {
        prop_oneof![Just(Level::Own), Just(Level::Shared), Just(Level::Steered)]
    }

    proptest! {
        #[test]
        fn clients_get_only_to_whom_was_let_in(events in prop::collection::vec(event(), 0..60), level in level()) {
            let mut gate = Gate::Holding { until: 10, behind: Behind::Nobody };
            for event in events {
                let before = gate;
                let Ok(after) = gate.apply(event, level) else { continue };
                gate = after;
                if after == Gate::Open && before != Gate::Open {
                    let told = event == Event::Open && before.behind() != Behind::Nobody;
                    let back = matches!(event, Event::Late { .. }) && before.behind() == Behind::Known;
                    prop_assert!(told || back, "{event:?} opened {before:?}");
                }
                if let Event::Ended { .. } = event {
                    prop_assert_eq!(after.behind(), Behind::Nobody);
                }
                if let Event::Late { now } = event {
                    prop_assert!(after.deadline().is_none_or(|until| now < until), "{after:?} at {now}");
                }
                // Only `Hold` makes anybody wait longer than was said.
                if let (Some(said), Some(now), false) = (before.deadline(), after.deadline(), matches!(event, Event::Hold { .. })) {
                    prop_assert_eq!(said, now);
                }
            }
        }
    }

    #[test]
    fn an_upgrade_goes_through_holding_and_never_shows_the_new_engine_before_it_is_let_in() {
        let mut gate = Gate::Open;
        for (event, expected) in [
            (Event::Hold { until: 9 }, Gate::Holding { until: 9, behind: Behind::Known }),
            (Event::Ended { until: 7 }, Gate::Holding { until: 9, behind: Behind::Nobody }),
            (Event::Started, Gate::Holding { until: 9, behind: Behind::Unproven }),
            (Event::Late { now: 8 }, Gate::Holding { until: 9, behind: Behind::Unproven }),
            (Event::Open, Gate::Open),
        ] {
            gate = gate.apply(event, Level::Steered).expect("it fits");
            assert_eq!(gate, expected, "after {event:?}");
        }
    }

    #[test]
    fn late_lets_back_in_whom_clients_had_and_else_refuses() {
        for (behind, level, expected) in [
            (Behind::Known, Level::Steered, Gate::Open),
            (Behind::Known, Level::Shared, Gate::Refusing { behind: Behind::Known }),
            (Behind::Unproven, Level::Steered, Gate::Refusing { behind: Behind::Unproven }),
            (Behind::Nobody, Level::Steered, Gate::Refusing { behind: Behind::Nobody }),
        ] {
            let gate = Gate::Holding { until: 5, behind };
            assert_eq!(gate.apply(Event::Late { now: 5 }, level), Ok(expected));
        }
    }

    #[test]
    fn nobody_is_let_in_where_nobody_is_and_nobody_starts_where_somebody_is() {
        let refusing = Gate::Refusing { behind: Behind::Nobody };
        assert_eq!(refusing.apply(Event::Open, Level::Steered), Err(Unfit::Vacant));
        assert_eq!(Gate::Open.apply(Event::Started, Level::Steered), Err(Unfit::Occupied));
    }
}
