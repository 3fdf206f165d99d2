//! What was measured, as a table with ratios and as JSON.

use serde_json::{Value, json};

/// One figure that is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Metric {
    /// Its short name.
    pub(crate) name: &'static str,
    /// Its unit.
    pub(crate) unit: &'static str,
    /// Whether more is better.
    pub(crate) higher_is_better: bool,
}

struct Row {
    path: String,
    metric: Metric,
    values: Vec<f64>,
}

/// The values of a suite, and the paths that the others are compared with.
pub(crate) struct Results {
    suite: String,
    bases: Vec<&'static str>,
    rows: Vec<Row>,
}

impl Results {
    /// No values yet. A ratio is made to each of `bases`: for a variant (`watari/tso-off`) to the same variant
    /// of the base (`plain/tso-off`) where it was measured, else to the base itself.
    pub(crate) fn new(suite: &str, bases: &[&'static str]) -> Self {
        Self { suite: suite.to_owned(), bases: bases.to_vec(), rows: Vec::new() }
    }

    pub(crate) fn add(&mut self, path: &str, metric: Metric, value: f64) {
        let known = |row: &&mut Row| row.path == path && row.metric == metric;
        match self.rows.iter_mut().find(known) {
            Some(row) => row.values.push(value),
            None => self.rows.push(Row { path: path.to_owned(), metric, values: vec![value] }),
        }
    }

    fn paths(&self) -> Vec<&str> {
        let mut paths: Vec<&str> = Vec::new();
        for row in &self.rows {
            if !paths.contains(&row.path.as_str()) {
                paths.push(&row.path);
            }
        }
        paths
    }

    fn metrics(&self) -> Vec<Metric> {
        let mut metrics = Vec::new();
        for row in &self.rows {
            if !metrics.contains(&row.metric) {
                metrics.push(row.metric);
            }
        }
        metrics
    }

    fn row(&self, path: &str, metric: Metric) -> Option<&Row> {
        self.rows.iter().find(|row| row.path == path && row.metric == metric)
    }

    pub(crate) fn was_measured(&self, path: &str, metric: Metric) -> bool {
        self.row(path, metric).is_some()
    }

    /// [`Results::by_rounds`] of `path` to the same variant of `base`, or to `base` itself.
    fn ratio(&self, path: &str, base: &str, metric: Metric) -> Option<f64> {
        let kin = path.split_once('/').map(|(_, variant)| format!("{base}/{variant}"));
        let kin = kin.filter(|kin| self.was_measured(kin, metric));
        self.by_rounds(path, kin.as_deref().unwrap_or(base), metric)
    }

    /// The median, over the rounds, of `path`'s value over that of `base` in the same round. A machine that grows
    /// slower from round to round moves the medians of the values by chance, these hardly.
    pub(crate) fn by_rounds(&self, path: &str, base: &str, metric: Metric) -> Option<f64> {
        let (own, base) = (self.row(path, metric)?, self.row(base, metric)?);
        let ratios: Vec<f64> = own.values.iter().zip(&base.values).map(|(own, base)| own / base).collect();
        Some(median(&ratios))
    }

    /// A line a path and metric column: the median, its ratio to each base, and how far the values spread.
    pub(crate) fn table(&self) -> String {
        let (paths, metrics) = (self.paths(), self.metrics());
        let width = paths.iter().map(|path| path.len()).max().unwrap_or(0).max(self.suite.len()) + 2;
        let mut text = String::new();
        if !self.bases.is_empty() {
            text += &format!(
                "median, median of each round's ratio to {}, spread (max − min) of the values\n",
                self.bases.join(" and to ")
            );
        }
        text += &format!("{:<width$}", self.suite);
        for metric in &metrics {
            let arrow = if metric.higher_is_better { "↑" } else { "↓" };
            text += &format!("{:>30}", format!("{} {arrow} {}", metric.name, metric.unit));
        }
        for path in &paths {
            text += &format!("\n{path:<width$}");
            for &metric in &metrics {
                text += &format!("{:>30}", self.cell(path, metric));
            }
        }
        text
    }

    fn cell(&self, path: &str, metric: Metric) -> String {
        let Some(row) = self.row(path, metric) else { return "–".to_owned() };
        let mut cell = number(median(&row.values));
        for base in &self.bases {
            let ratio = self.ratio(path, base, metric);
            cell += &ratio.map_or_else(|| "     –".to_owned(), |ratio| format!(" {ratio:>5.2}"));
        }
        if row.values.len() > 1 {
            cell += &format!(" ±{:>3.0}%", 100.0 * spread(&row.values));
        }
        cell
    }

    pub(crate) fn json(&self) -> Value {
        let row = |row: &Row| {
            json!({
                "suite": self.suite, "path": row.path,
                "metric": row.metric.name, "unit": row.metric.unit,
                "better": if row.metric.higher_is_better { "higher" } else { "lower" },
                "values": row.values, "median": median(&row.values),
            })
        };
        self.rows.iter().map(row).collect()
    }
}

/// Whole where it is large, with decimals where these say something.
fn number(value: f64) -> String {
    match value.abs() {
        large if large >= 100.0 => format!("{value:.0}"),
        middle if middle >= 1.0 => format!("{value:.1}"),
        _ => format!("{value:.3}"),
    }
}

/// The middle one, or the mean of the two in the middle.
fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[middle],
        _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
    }
}

/// From the least to the greatest, as a share of the median.
fn spread(values: &[f64]) -> f64 {
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    let greatest = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    (greatest - least) / median(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Metric = Metric { name: "tcp1", unit: "Mbit/s", higher_is_better: true };
    const COST: Metric = Metric { name: "cpu", unit: "ns/kB", higher_is_better: false };

    fn measured() -> Results {
        let mut results = Results::new("overlay", &["plain", "bridge-vxlan"]);
        for (path, factor) in [
            ("plain", 1.0),
            ("plain/tso-off", 0.5),
            ("bridge-vxlan", 0.8),
            ("ovs", 0.1),
            ("watari", 0.9),
            ("watari/tso-off", 0.4),
        ] {
            for value in [300.0, 100.0, 200.0] {
                results.add(path, RATE, value * factor);
            }
        }
        results.add("watari", COST, 1500.0);
        results
    }

    fn near(value: Option<f64>, wanted: f64) -> bool {
        value.is_some_and(|value| (value - wanted).abs() < 1e-9)
    }

    #[test]
    fn a_variant_is_compared_with_its_own_kind() {
        let results = measured();
        assert!(near(results.ratio("watari", "plain", RATE), 0.9));
        assert!(near(results.ratio("watari", "bridge-vxlan", RATE), 0.9 / 0.8));
        assert!(near(results.ratio("watari/tso-off", "plain", RATE), 0.4 / 0.5));
        // No such variant of the base was measured: the base itself.
        assert!(near(results.ratio("watari/tso-off", "bridge-vxlan", RATE), 0.4 / 0.8));
        assert!(near(results.ratio("ovs", "plain", RATE), 0.1));
        assert_eq!(results.ratio("watari", "plain", COST), None, "the base lacks it");
    }

    #[test]
    fn rounds_are_compared_one_by_one() {
        let mut results = Results::new("overlay", &["plain"]);
        // A machine that slows down, and one disturbance.
        for (plain, watari) in
            [(1000.0, 1100.0), (800.0, 880.0), (600.0, 660.0), (400.0, 100.0), (200.0, 220.0)]
        {
            results.add("plain", RATE, plain);
            results.add("watari", RATE, watari);
        }
        assert!(near(results.ratio("watari", "plain", RATE), 1.1));
        // A round that ended early counts for those who took part.
        results.add("plain", RATE, 1.0);
        assert!(near(results.ratio("watari", "plain", RATE), 1.1));
    }

    #[test]
    fn medians_and_spread() {
        assert!((median(&[3.0, 1.0, 2.0]) - 2.0).abs() < 1e-9);
        assert!((median(&[1.0, 2.0]) - 1.5).abs() < 1e-9);
        assert!(median(&[]).is_nan());
        assert!((spread(&[300.0, 100.0, 200.0]) - 1.0).abs() < 1e-9);
        let table = measured().table();
        let line = table.lines().find(|line| line.starts_with("watari ")).unwrap();
        assert!(line.contains("180  0.90  1.12 ±100%"), "{table}");
        assert!(line.contains("1500     –     –"), "{table}");
    }

    #[test]
    fn the_json_is_what_the_contract_says() {
        let json = measured().json();
        let list = json.as_array().unwrap();
        assert_eq!(list.len(), 7);
        for entry in list {
            let fields: Vec<&String> = entry.as_object().unwrap().keys().collect();
            assert_eq!(fields, ["suite", "path", "metric", "unit", "better", "values", "median"]);
            assert!(entry["values"].as_array().unwrap().iter().all(Value::is_f64));
        }
        assert_eq!(json[0]["median"], 200.0);
        assert_eq!(json[0]["better"], "higher");
        assert_eq!(json[6]["better"], "lower");
        assert_eq!((json[3]["path"].as_str(), json[3]["suite"].as_str()), (Some("ovs"), Some("overlay")));
    }
}
