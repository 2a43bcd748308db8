//! `coffer instance upgrade --dry-run`: the plan as people read it.

use std::fmt::Write as _;

use coffer_core::engine::{Fate, Policy};
use coffer_core::finding::Severity;
use coffer_wire::trove::fault::FindingBody;
use coffer_wire::trove::operation::{MeasuredGap, PlanStep, PlanVersion, UpgradePlan};

use super::report::told;
use crate::watch::span;

/// The whole plan. Nothing is left out that `-o json` has and a person can act on.
pub(crate) fn render(instance: &str, plan: &UpgradePlan) -> String {
    let mut text = format!("Upgrade of {instance} from {} to {}\n\n", label(&plan.from), label(&plan.to));
    let mut row = |name: &str, value: &str| {
        let _ = writeln!(text, "{name:<14}{value}");
    };
    row("Path", &path(&plan.steps));
    if let Some(image) = &plan.image {
        row("Image", &format!("{} {}, from {}", image.number, image.digest, image.source));
    }
    if let Some(preview) = &plan.preview {
        let bytes = bytes(preview.preimage_bytes);
        row("Pre-image", &format!("{}: {bytes}, about {}", preview.preimage_method, millis(preview.preimage_millis)));
        row("Stops", &preview.stops);
        row("Gap", &gap(preview.gap_millis, plan.gap.as_ref()));
    }
    row("Way back", &way_back(plan));
    if plan.policy == Policy::Adopt {
        row("Defaults", "those of the new version are adopted; nothing is pinned to the old ones");
    }
    if let Some(group) = &plan.configuration {
        row(
            "Group",
            &format!("{} ({}), with the settings below; the group of the old version stays", group.name, group.id),
        );
    }
    if let Some(preview) = &plan.preview {
        section(&mut text, "Done beforehand, while the old engine serves", &preview.while_serving);
    }
    section(&mut text, "Configuration", &plan.settings.0.iter().map(fate).collect::<Vec<_>>());
    section(&mut text, "Findings", &plan.findings.iter().map(finding).collect::<Vec<_>>());
    section(&mut text, "Notes", &plan.notes);
    text
}

/// One finding on a line.
pub(crate) fn finding(finding: &FindingBody) -> String {
    let remedy = if finding.remedy.is_empty() { String::new() } else { format!(" ({})", finding.remedy) };
    format!("{:<8} {}: {}{remedy}", severity(finding.severity), finding.object, finding.message)
}

fn severity(severity: Severity) -> &'static str {
    match severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
        Severity::Notice => "notice",
    }
}

/// How a version is named.
pub(crate) fn label(version: &PlanVersion) -> String {
    format!("{} {}", version.datastore, version.name)
}

/// The steps in order; those that the agent does alone stand in brackets.
pub(super) fn path(steps: &[PlanStep]) -> String {
    let mut text = String::new();
    let mut within = false;
    for step in steps {
        if step.section != within {
            text.push_str(if step.section { " [" } else { "]" });
            within = step.section;
        } else if !text.is_empty() {
            text.push_str(", ");
        }
        if text.ends_with(']') {
            text.push_str(", ");
        }
        text.push_str(&step.name);
    }
    if within {
        text.push(']');
    }
    text
}

/// How long clients will not be able to write: as it was measured where it was, else as it is reckoned.
pub(super) fn gap(reckoned: u64, measured: Option<&MeasuredGap>) -> String {
    match measured {
        None => format!(
            "clients cannot write for about {}, as reckoned: no three like it were measured yet",
            millis(reckoned)
        ),
        Some(gap) => {
            format!(
                "clients cannot write for about {}, as measured {} times with about as much data on such a host",
                told(gap),
                gap.count
            )
        }
    }
}

fn way_back(plan: &UpgradePlan) -> String {
    match plan.steps.iter().find(|step| !step.undone) {
        None => "whole: nothing is changed that would not be put back by itself".to_owned(),
        Some(step) => format!(
            "whole until '{}': whatever fails before it is undone by itself, with nothing lost; after it the new engine \
             has taken writes, and nothing is undone any more",
            step.name
        ),
    }
}

fn fate(fate: &Fate) -> String {
    match fate {
        Fate::Kept { name, value } => format!("kept             {name} = {value}"),
        Fate::Translated { name, value, to_name, to_value, reason } => {
            format!("translated       {name} = {value}  ->  {to_name} = {to_value}: {reason}")
        }
        Fate::Dropped { name, value, reason } => format!("dropped          {name} = {value}: {reason}"),
        Fate::Pinned { name, value, reason } => format!("pinned           {name} = {value}: {reason}"),
        Fate::DefaultChanged { name, before, after, reason } => {
            format!("default changed  {name}: {before}  ->  {after}: {reason}")
        }
        Fate::Refused { name, value, reason } => format!("refused          {name} = {value}: {reason}"),
    }
}

pub(super) fn section(text: &mut String, title: &str, lines: &[String]) {
    if !lines.is_empty() {
        let _ = writeln!(text, "\n{title}");
        for line in lines {
            let _ = writeln!(text, "  {line}");
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "it is an estimate")]
pub(super) fn millis(millis: u64) -> String {
    span(millis as f64)
}

#[expect(clippy::cast_precision_loss, reason = "two digits are shown")]
pub(super) fn bytes(bytes: u64) -> String {
    match bytes {
        0..1_000_000 => format!("{} kB", bytes.div_ceil(1000)),
        1_000_000..1_000_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.2} GB", bytes as f64 / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{gap, render};

    #[test]
    fn a_plan_says_everything_that_is_needed_to_decide() {
        let version = |name: &str| json!({"id": "v", "datastore": "redis", "name": name, "number": name});
        let step =
            |name: &str, undone: bool, section: bool| json!({"name": name, "undone": undone, "section": section});
        let plan = json!({
            "from": version("7.0.15"), "to": version("8.0.2"),
            "steps": [step("fetch", true, false), step("check", true, false), step("stop", true, true),
                      step("open", false, true), step("record", false, false)],
            "notes": ["the pre-image stays for 24 h"], "policy": "adopt", "configuration": {"id": "g", "name": "cache-8.0.2"},
            "findings": [{"id": "x", "severity": "warning", "object": "user app", "message": "loses pub/sub", "remedy": "add &*"}],
            "settings": [
                {"fate": "kept", "name": "maxmemory-policy", "value": "allkeys-lru"},
                {"fate": "dropped", "name": "gopher-enabled", "value": "no", "reason": "gone in 7.0"},
                {"fate": "pinned", "name": "character_set_server", "value": "latin1", "reason": "was the default"},
                {"fate": "default_changed", "name": "repl-diskless-sync", "before": "no", "after": "yes", "reason": "7.0"}],
            "image": {"digest": "sha256:ab", "number": "8.0.2", "source": "debian trixie"},
            "preview": {"preimage_method": "hard link of dump.rdb", "preimage_bytes": 12_345_678, "preimage_millis": 3,
                        "while_serving": ["BGSAVE"], "stops": "redis 7.0.15, once", "gap_millis": 180}
        });
        let plan = serde_json::from_value(plan).expect("a plan");
        assert_eq!(
            render("redis_test", &plan),
            "\
Upgrade of redis_test from redis 7.0.15 to redis 8.0.2

Path          fetch, check [stop, open], record
Image         8.0.2 sha256:ab, from debian trixie
Pre-image     hard link of dump.rdb: 12.3 MB, about 3 ms
Stops         redis 7.0.15, once
Gap           clients cannot write for about 180 ms, as reckoned: no three like it were measured yet
Way back      whole until 'open': whatever fails before it is undone by itself, with nothing lost; after it the new engine has \
taken writes, and nothing is undone any more
Defaults      those of the new version are adopted; nothing is pinned to the old ones
Group         cache-8.0.2 (g), with the settings below; the group of the old version stays

Done beforehand, while the old engine serves
  BGSAVE

Configuration
  kept             maxmemory-policy = allkeys-lru
  dropped          gopher-enabled = no: gone in 7.0
  pinned           character_set_server = latin1: was the default
  default changed  repl-diskless-sync: no  ->  yes: 7.0

Findings
  warning  user app: loses pub/sub (add &*)

Notes
  the pre-image stays for 24 h
"
        );
    }

    #[test]
    fn a_gap_is_told_as_it_was_measured_with_its_spread() {
        let measured = json!({"count": 7, "shortest_ms": 31.2, "median_ms": 43.4, "longest_ms": 12_345.0});
        let measured = serde_json::from_value(measured).expect("a spread");
        assert_eq!(
            gap(180, Some(&measured)),
            "clients cannot write for about 43 ms (31 ms to 12.3 s), as measured 7 times with about as much data on such a host"
        );
    }
}
