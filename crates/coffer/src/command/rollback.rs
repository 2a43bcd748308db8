//! `coffer instance rollback`: what it would do and lose, as people read it, and whether it is to be done.

use std::fmt::Write as _;

use coffer_core::finding::Severity;
use coffer_wire::trove::instance::Instance;
use coffer_wire::trove::operation::{LossBody, RollbackPlan, RollbackPlanBody};
use reqwest::Method;
use serde_json::json;

use super::plan::{bytes, finding, gap, label, millis, path, section};
use super::{Session, instance, print};
use crate::cli::Rollback;
use crate::failure::{Failure, Kind};
use crate::find;
use crate::table::{self, Format};

/// Looks, asks, and goes back.
pub(super) async fn run(session: Session, asked: Rollback) -> Result<(), Failure> {
    let found = find::instance_named(&session.trove, &asked.instance).await?;
    let restore = asked.restore;
    let path = format!("/instances/{}/rollback-preview", found.id);
    let looked = session.trove.post(&path, &json!({"rollback": {"restore": restore}})).await;
    let RollbackPlanBody { plan } = looked?;
    if asked.dry_run {
        print(session.format, &plan, || render(&found.name, &plan))?;
        return judged(&found, &plan);
    }
    if session.format == Format::Table {
        table::print(&render(&found.name, &plan))?;
    }
    judged(&found, &plan)?;
    if !asked.yes && !agreed(&found, &plan, restore)? {
        return Err(Failure::new(Kind::Refused, "not rolled back; nothing was touched", ""));
    }
    let body = json!({"rollback": {"restore": restore, "accept_loss": !plan.in_place}});
    session.trove.tell(Method::POST, &format!("/instances/{}/rollback", found.id), Some(&body)).await?;
    instance::follow(session, &found, asked.wait).await
}

/// A failure where it would be refused.
fn judged(instance: &Instance, plan: &RollbackPlan) -> Result<(), Failure> {
    if plan.findings.iter().any(|finding| finding.severity == Severity::Error) {
        let next = format!("do what they say, then: coffer instance rollback {} --dry-run", instance.name);
        return Err(Failure::new(
            Kind::Refused,
            "this rollback would be refused, for the errors among the findings",
            next,
        ));
    }
    Ok(())
}

/// Asks whoever is at the terminal.
fn agreed(instance: &Instance, plan: &RollbackPlan, restore: bool) -> Result<bool, Failure> {
    let lost = if plan.in_place { "" } else { " and lose what was written since" };
    let restore = if restore { " --restore" } else { "" };
    super::agreed(
        &format!("Go back to {}{lost}?", label(&plan.to)),
        &format!("coffer instance rollback {}{restore} --yes --wait", instance.name),
    )
}

/// The whole plan. Nothing is left out that `-o json` has and a person can act on.
fn render(instance: &str, plan: &RollbackPlan) -> String {
    let mut text = format!("Rollback of {instance} from {} to {}\n\n", label(&plan.from), label(&plan.to));
    let mut row = |name: &str, value: &str| {
        let _ = writeln!(text, "{name:<14}{value}");
    };
    row("Path", &path(&plan.steps));
    row("Possible", &format!("until {}", plan.until));
    row("Lost", &lost(plan));
    if let Some(preview) = &plan.preview {
        row("Stops", &preview.stops);
        row("Gap", &if plan.down { gap_after(preview.gap_millis) } else { gap(preview.gap_millis, plan.gap.as_ref()) });
        row("Way back", &format!("the data that there are now are kept: {}", bytes(preview.preimage_bytes)));
    }
    if let Some(group) = &plan.configuration {
        row("Group", &format!("{} ({})", group.name, group.id));
    }
    if let Some(preview) = &plan.preview {
        let meanwhile = if plan.down { "Done beforehand" } else { "Done beforehand, while the newer engine serves" };
        section(&mut text, meanwhile, &preview.while_serving);
    }
    section(&mut text, "Findings", &plan.findings.iter().map(finding).collect::<Vec<_>>());
    section(&mut text, "Notes", &plan.notes);
    text
}

fn lost(plan: &RollbackPlan) -> String {
    match &plan.loss {
        _ if plan.in_place && plan.down => "nothing more: the data stay as the newer engine left them".to_owned(),
        _ if plan.in_place => "nothing: the data stay as they are".to_owned(),
        None => format!("everything that was written since {}", plan.since),
        Some(LossBody { since, writes: Some(0), at_least: false, .. }) => {
            format!("nothing: nothing was written since {since}")
        }
        Some(LossBody { since, writes: Some(writes), at_least, .. }) => {
            let at_least = if *at_least { "at least " } else { "" };
            format!("everything that was written since {since}: {at_least}{writes} writes")
        }
        Some(LossBody { since, writes: None, .. }) => {
            format!("everything that was written since {since}; how much that is cannot be told")
        }
    }
}

/// Of an engine that is down nobody can say when clients could write last.
fn gap_after(reckoned: u64) -> String {
    format!("the newer engine is down; clients can write about {} after what is done beforehand", millis(reckoned))
}

#[cfg(test)]
mod tests {
    use coffer_wire::trove::operation::RollbackPlan;
    use serde_json::{Value, json};

    use super::render;

    fn plan(in_place: bool, loss: &Value) -> RollbackPlan {
        let version = |name: &str| json!({"id": "v", "datastore": "redis", "name": name, "number": name});
        let step =
            |name: &str, undone: bool, section: bool| json!({"name": name, "undone": undone, "section": section});
        let plan = json!({"from": version("8.0.2"), "to": version("7.0.15"), "down": false, "since": "2026-11-27T07:00:00",
            "until": "2026-11-28T07:00:00", "in_place": in_place, "loss": loss,
            "steps": [step("check", true, false), step("restore", true, true), step("record", false, false)],
            "findings": [{"id": "rollback.loss", "severity": "warning", "object": "data", "message": "gone", "remedy": ""}],
            "notes": ["kept"], "configuration": {"id": "g", "name": "cache"},
            "preview": {"preimage_method": "", "preimage_bytes": 12_345_678, "preimage_millis": 3, "while_serving": ["a copy"],
                        "stops": "redis 8.0.2, once", "gap_millis": 180}});
        serde_json::from_value(plan).expect("a plan")
    }

    #[test]
    fn everything_that_is_needed_to_decide_is_told() {
        let loss =
            json!({"since": "2026-11-27T07:00:00", "counted": "2026-11-27T08:00:00", "writes": 12, "at_least": true});
        assert_eq!(
            render("cache", &plan(false, &loss)),
            "\
Rollback of cache from redis 8.0.2 to redis 7.0.15

Path          check [restore], record
Possible      until 2026-11-28T07:00:00
Lost          everything that was written since 2026-11-27T07:00:00: at least 12 writes
Stops         redis 8.0.2, once
Gap           clients cannot write for about 180 ms, as reckoned: no three like it were measured yet
Way back      the data that there are now are kept: 12.3 MB
Group         cache (g)

Done beforehand, while the newer engine serves
  a copy

Findings
  warning  data: gone

Notes
  kept
"
        );
    }

    #[test]
    fn an_engine_that_is_down_is_nothing_that_is_waited_for() {
        for (in_place, lost) in [
            (true, "nothing more: the data stay as the newer engine left them"),
            (false, "everything that was written since 2026-11-27T07:00:00"),
        ] {
            let text = render("cache", &RollbackPlan { down: true, ..plan(in_place, &Value::Null) });
            for line in [
                format!("Lost          {lost}\n"),
                "Gap           the newer engine is down; clients can write about 180 ms after".to_owned(),
                "\nDone beforehand\n".to_owned(),
            ] {
                assert!(text.contains(&line), "{line:?} is not in {text}");
            }
        }
    }

    #[test]
    fn what_is_lost_is_told_as_far_as_it_is_known() {
        let check = |in_place: bool, loss: Value, expected: &str| {
            let text = render("cache", &plan(in_place, &loss));
            assert!(text.contains(&format!("\nLost          {expected}\n")), "{text}");
        };
        let loss = |writes: Value| json!({"since": "2026-11-27T07:00:00", "counted": "2026-11-27T08:00:00", "writes": writes, "at_least": false});
        check(true, Value::Null, "nothing: the data stay as they are");
        check(false, Value::Null, "everything that was written since 2026-11-27T07:00:00");
        check(false, loss(json!(0)), "nothing: nothing was written since 2026-11-27T07:00:00");
        check(false, loss(json!(3)), "everything that was written since 2026-11-27T07:00:00: 3 writes");
        check(
            false,
            loss(Value::Null),
            "everything that was written since 2026-11-27T07:00:00; how much that is cannot be told",
        );
    }
}
