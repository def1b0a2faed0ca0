//! Medians over the rounds, and ratios to the bare veth and to wireguard-go of the same run.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde_json::{Map, Value, json};

/// One figure each: its name in JSON, and as the table calls it.
pub const COLUMNS: [(&str, &str); 14] = [
    ("tcp_gbps", "TCP Gbit/s"),
    ("tcp_reverse_gbps", "reverse"),
    ("retransmits", "retr."),
    ("small_kpps", "64 B kpps"),
    ("idle_ping_p50_us", "ping p50 us"),
    ("idle_ping_p99_us", "p99"),
    ("loaded_ping_p50_us", "loaded p50 us"),
    ("loaded_ping_p99_us", "p99"),
    ("cpu_s_per_gb", "tool CPU s/GB"),
    ("machine_cpu_s_per_gb", "machine s/GB"),
    ("idle_cpu_percent", "idle CPU %"),
    ("idle_rss_mib", "RSS MiB idle"),
    ("loaded_rss_mib", "after"),
    ("steal_percent", "steal %"),
];

/// The figures of one tool in one round; what was not measured is not there.
pub type Figures = BTreeMap<&'static str, f64>;

/// All rounds.
pub struct Report {
    /// In the order in which they were measured first.
    tools: Vec<(String, Vec<Figures>)>,
    missing: Vec<(String, String)>,
    failures: Vec<(String, String)>,
}

impl Report {
    pub fn new(missing: Vec<(String, String)>) -> Self {
        Self { tools: Vec::new(), missing, failures: Vec::new() }
    }

    pub fn add(&mut self, tool: &str, figures: Figures) {
        match self.tools.iter_mut().find(|(name, _)| name == tool) {
            Some((_, rounds)) => rounds.push(figures),
            None => self.tools.push((tool.to_owned(), vec![figures])),
        }
    }

    pub fn failed(&mut self, tool: &str, why: String) {
        self.failures.push((tool.to_owned(), why));
    }

    /// The medians of `tool`.
    fn medians(&self, tool: &str) -> Figures {
        let rounds = self.tools.iter().find(|(name, _)| name == tool).map_or(&[][..], |(_, rounds)| rounds);
        let median = |name: &'static str| {
            let values: Vec<f64> = rounds.iter().filter_map(|figures| figures.get(name).copied()).collect();
            Some((name, median(values)?))
        };
        COLUMNS.iter().filter_map(|(name, _)| median(name)).collect()
    }

    fn ratio(&self, figures: &Figures, to: &str) -> Option<f64> {
        let theirs = self.medians(to).get("tcp_gbps").copied().filter(|gbps| *gbps > 0.0)?;
        Some(figures.get("tcp_gbps")? / theirs)
    }

    /// `{"tools":[{"tool":"c3os","rounds":5,"tcp_gbps":..,"tcp_vs_bare":..,"tcp_vs_wireguard_go":..}],"missing":[..]}`
    pub fn json(&self) -> Value {
        let tool = |(name, rounds): &(String, Vec<Figures>)| {
            let figures = self.medians(name);
            let mut object = Map::new();
            object.insert("tool".to_owned(), json!(name));
            object.insert("rounds".to_owned(), json!(rounds.len()));
            for (name, value) in &figures {
                object.insert((*name).to_owned(), json!(round(*value)));
            }
            for (key, to) in [("tcp_vs_bare", "bare"), ("tcp_vs_wireguard_go", "wireguard-go")] {
                if let Some(ratio) = self.ratio(&figures, to) {
                    object.insert(key.to_owned(), json!(round(ratio)));
                }
            }
            Value::Object(object)
        };
        let named = |list: &[(String, String)]| -> Vec<Value> {
            list.iter().map(|(tool, why)| json!({"tool": tool, "why": why})).collect()
        };
        json!({
            "tools": self.tools.iter().map(tool).collect::<Vec<_>>(),
            "missing": named(&self.missing),
            "failures": named(&self.failures),
        })
    }

    /// The same for people, in Markdown.
    pub fn table(&self) -> String {
        let shown: Vec<(&str, &str)> = COLUMNS
            .into_iter()
            .filter(|(key, _)| {
                self.tools.iter().any(|(_, rounds)| rounds.iter().any(|f| f.contains_key(key)))
            })
            .collect();
        let mut text = String::from("| tool | v. bare | v. wireguard-go |");
        shown.iter().for_each(|(_, title)| text += &format!(" {title} |"));
        text += "\n| --- | --- | --- |";
        text += &" --- |".repeat(shown.len());
        for (name, _) in &self.tools {
            let figures = self.medians(name);
            let ratio = |to| self.ratio(&figures, to).map_or("-".to_owned(), number);
            let _ = write!(text, "\n| {name} | {} | {} |", ratio("bare"), ratio("wireguard-go"));
            for (key, _) in &shown {
                text += &format!(" {} |", figures.get(key).map_or("-".to_owned(), |value| number(*value)));
            }
        }
        text.push('\n');
        for (tool, why) in self.missing.iter().chain(&self.failures) {
            let _ = writeln!(text, "without {tool}: {}", why.lines().next().unwrap_or_default());
        }
        text
    }
}

/// One round in a line.
pub fn line(figures: &Figures) -> String {
    let words = COLUMNS.iter().filter_map(|(key, _)| Some(format!("{key} {}", number(*figures.get(key)?))));
    words.collect::<Vec<_>>().join(", ")
}

/// The middle one, or the mean of the two in the middle.
pub fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        odd if odd % 2 == 1 => Some(values[middle]),
        _ => Some((values[middle - 1] + values[middle]) / 2.0),
    }
}

/// Three digits that say something.
fn round(value: f64) -> f64 {
    let digits = if value.abs() >= 100.0 { 1.0 } else { 1000.0 };
    (value * digits).round() / digits
}

fn number(value: f64) -> String {
    let digits = match value.abs() {
        100.0.. => 0,
        10.0.. => 1,
        1.0.. => 2,
        _ => 3,
    };
    format!("{value:.digits$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(gbps: f64) -> Figures {
        Figures::from([("tcp_gbps", gbps)])
    }

    #[test]
    fn a_report_has_medians_and_ratios_and_names_who_is_missing() {
        let mut report = Report::new(vec![("edgevpn".to_owned(), "no go".to_owned())]);
        for gbps in [10.0, 30.0, 20.0] {
            report.add("bare", figures(gbps));
            report.add("c3os", figures(gbps / 4.0));
        }
        report.failed("nebula", "did not come up".to_owned());
        let json = report.json();
        assert_eq!(json["tools"][1]["tool"], "c3os");
        assert_eq!(json["tools"][1]["tcp_gbps"], 5.0);
        assert_eq!(json["tools"][1]["tcp_vs_bare"], 0.25);
        assert_eq!(json["tools"][1].get("tcp_vs_wireguard_go"), None);
        assert_eq!(json["missing"][0]["tool"], "edgevpn");
        let table = report.table();
        assert!(table.contains("| c3os | 0.250 | - | 5.00 |"), "{table}");
        assert!(table.contains("without nebula: did not come up"), "{table}");
    }

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median(vec![]), None);
        assert_eq!(median(vec![3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![4.0, 1.0]), Some(2.5));
    }
}
