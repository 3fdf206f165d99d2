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

/// The values of a suite. The path that came first is the base line of the ratios.
pub(crate) struct Results {
    suite: String,
    rows: Vec<Row>,
}

impl Results {
    pub(crate) fn new(suite: &str) -> Self {
        Self { suite: suite.to_owned(), rows: Vec::new() }
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

    fn median_of(&self, path: &str, metric: Metric) -> Option<f64> {
        let row = self.rows.iter().find(|row| row.path == path && row.metric == metric)?;
        Some(median(&row.values))
    }

    /// A line a path: the median of each metric, and its ratio to the first path's.
    pub(crate) fn table(&self) -> String {
        let (paths, metrics) = (self.paths(), self.metrics());
        let mut text = format!("{:<16}", self.suite);
        for metric in &metrics {
            text += &format!("{:>26}", format!("{} ({})", metric.name, metric.unit));
        }
        for path in &paths {
            text += &format!("\n{path:<16}");
            for &metric in &metrics {
                let cell = self.median_of(path, metric).map_or("–".to_owned(), |value| {
                    let base = self.median_of(paths[0], metric);
                    let ratio = base.map_or(String::new(), |base| format!("  {:.2}×", value / base));
                    format!("{value:.0}{ratio}")
                });
                text += &format!("{cell:>26}");
            }
        }
        text
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

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Metric = Metric { name: "tcp1", unit: "Mbit/s", higher_is_better: true };

    #[test]
    fn the_median_and_its_ratio() {
        let mut results = Results::new("overlay");
        for value in [300.0, 100.0, 200.0] {
            results.add("plain", RATE, value);
            results.add("watari", RATE, value / 2.0);
        }
        let json = results.json();
        assert_eq!(json[0]["median"], 200.0);
        assert_eq!(json[1]["better"], "higher");
        assert!(results.table().contains("0.50×"), "{}", results.table());
        assert!((median(&[1.0, 2.0]) - 1.5).abs() < 1e-9);
    }
}
