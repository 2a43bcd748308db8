//! `coffer instance resume` and `coffer instance abandon`: what each does and costs, as people read it, and whether it is to be done.

use std::fmt::Write as _;

use coffer_core::stuck::Choice;
use coffer_wire::trove::operation::{Choice as Offer, ChoiceBody};
use reqwest::Method;
use serde_json::json;

use super::plan::section;
use super::{Session, agreed, instance, print};
use crate::cli::Decide;
use crate::failure::{Failure, Kind};
use crate::find;
use crate::table::{self, Format};

/// Looks, asks, and does it.
pub(super) async fn run(session: Session, choice: Choice, asked: Decide) -> Result<(), Failure> {
    let found = find::instance_named(&session.trove, &asked.instance).await?;
    let name = choice.name();
    let (path, body) = (format!("/instances/{}/{name}", found.id), json!({ name: {} }));
    let ChoiceBody { choice: offer } = session.trove.post(&format!("{path}-preview"), &body).await?;
    if asked.dry_run {
        return print(session.format, &offer, || render(&found.name, &offer));
    }
    if session.format == Format::Table {
        table::print(&render(&found.name, &offer))?;
    }
    let question = format!("{} it?", if choice == Choice::Resume { "Resume" } else { "Abandon" });
    if !asked.yes && !agreed(&question, &format!("coffer instance {name} {} --yes", found.name))? {
        return Err(Failure::new(Kind::Refused, "left as it was; nothing was touched", ""));
    }
    session.trove.tell(Method::POST, &path, Some(&body)).await?;
    match choice {
        Choice::Resume => instance::follow(session, &found, asked.wait).await,
        Choice::Abandon => print(session.format, &offer, || {
            format!("{} is given up; what it is now: coffer instance show {}\n", found.name, found.name)
        }),
    }
}

fn render(instance: &str, offer: &Offer) -> String {
    let what = if offer.choice == "resume" { "Resuming" } else { "Abandoning" };
    let mut text = format!("{what} what is stuck of {instance}\n\n");
    let step = if offer.undoing { format!("undo {}", offer.step) } else { offer.step.clone() };
    let _ = writeln!(text, "{:<14}{step}", "Stuck at");
    let _ = writeln!(text, "{:<14}{}", "Because", offer.cause.message);
    if !offer.cause.hint.is_empty() {
        let _ = writeln!(text, "{:<14}{}", "Hint", offer.cause.hint);
    }
    section(&mut text, "What happens", &offer.does);
    section(&mut text, "What it costs", &offer.costs);
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::render;

    #[test]
    fn what_is_stuck_what_happens_and_what_it_costs_is_told() {
        let offer = json!({"choice": "abandon", "step": "place", "undoing": true,
            "cause": {"message": "the disk", "hint": "mend it"}, "does": ["it ends"], "costs": ["the place stays"]});
        assert_eq!(
            render("cache", &serde_json::from_value(offer).expect("an offer")),
            "\
Abandoning what is stuck of cache

Stuck at      undo place
Because       the disk
Hint          mend it

What happens
  it ends

What it costs
  the place stays
"
        );
    }
}
