//! `coffer instance check`: what the checks before an upgrade found, as people read it.

use std::fmt::Write as _;

use coffer_core::finding::Severity;
use coffer_wire::trove::fault::FindingBody;
use coffer_wire::trove::operation::UpgradePlan;

use super::plan::label;

const GROUPS: [(Severity, &str); 3] = [
    (Severity::Error, "Errors: the upgrade is refused"),
    (Severity::Warning, "Warnings: to know before going on"),
    (Severity::Notice, "Notices: for the record"),
];

/// All findings, the worst first, and what to do next where nothing blocks.
pub(crate) fn render(instance: &str, version: &str, plan: &UpgradePlan) -> String {
    let mut text = format!("Check of {instance} for {} to {}\n", label(&plan.from), label(&plan.to));
    let width = |part: fn(&FindingBody) -> &str| {
        plan.findings.iter().map(|finding| part(finding).chars().count()).max().unwrap_or(0)
    };
    let (ids, objects) = (width(|f| &f.id), width(|f| &f.object));
    for (severity, title) in GROUPS {
        let group: Vec<_> = plan.findings.iter().filter(|finding| finding.severity == severity).collect();
        if group.is_empty() {
            continue;
        }
        let _ = writeln!(text, "\n{title}");
        for FindingBody { id, object, message, remedy, .. } in group {
            let _ = writeln!(text, "  {id:<ids$}  {object:<objects$}  {message}");
            if !remedy.is_empty() {
                let _ = writeln!(text, "  {:<ids$}  {:<objects$}  -> {remedy}", "", "");
            }
        }
    }
    if plan.findings.is_empty() {
        text.push_str("\nNothing was found.\n");
    }
    if !blocks(plan) {
        let _ = writeln!(text, "\nnothing blocks it; next: coffer instance upgrade {instance} {version} --wait");
    }
    text
}

/// Whether the upgrade would be refused.
pub(crate) fn blocks(plan: &UpgradePlan) -> bool {
    plan.findings.iter().any(|finding| finding.severity == Severity::Error)
}

#[cfg(test)]
mod tests {
    use coffer_wire::trove::operation::UpgradePlan;
    use serde_json::{Value, json};

    use super::{blocks, render};

    fn plan(findings: &Value) -> UpgradePlan {
        let version = |name: &str| json!({"id": "v", "datastore": "mariadb", "name": name, "number": name});
        let plan = json!({"from": version("10.5.23"), "to": version("11.8.9"), "steps": [], "notes": [], "findings": findings,
            "policy": "preserve", "settings": [], "image": null, "preview": null});
        serde_json::from_value(plan).expect("a plan")
    }

    #[test]
    fn the_worst_comes_first_and_columns_align() {
        let finding = |id: &str, severity: &str, object: &str, remedy: &str| json!({"id": id, "severity": severity, "object": object, "message": "it is so", "remedy": remedy});
        let plan = plan(&json!([
            finding("mariadb.read_only", "notice", "engine", ""),
            finding("mariadb.xa", "error", "engine", "XA RECOVER"),
            finding("mariadb.definer", "warning", "view shop.v", "drop it"),
            finding("mariadb.disk", "error", "volume", ""),
        ]));
        assert!(blocks(&plan));
        assert_eq!(
            render("shop", "11.8", &plan),
            "\
Check of shop for mariadb 10.5.23 to mariadb 11.8.9

Errors: the upgrade is refused
  mariadb.xa         engine       it is so
                                  -> XA RECOVER
  mariadb.disk       volume       it is so

Warnings: to know before going on
  mariadb.definer    view shop.v  it is so
                                  -> drop it

Notices: for the record
  mariadb.read_only  engine       it is so
"
        );
    }

    #[test]
    fn a_sound_instance_is_told_the_next_command() {
        assert!(!blocks(&plan(&json!([]))));
        assert_eq!(
            render("shop", "11.8", &plan(&json!([]))),
            "Check of shop for mariadb 10.5.23 to mariadb 11.8.9\n\nNothing was found.\n\nnothing blocks it; next: coffer instance upgrade shop 11.8 --wait\n"
        );
    }
}
