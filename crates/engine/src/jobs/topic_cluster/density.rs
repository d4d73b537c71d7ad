//! Where events lie densely: HDBSCAN on their directions.

use aionis_core::{error::DomainError, jobs::topics::Clusters, ports::store::SourceNode};
use hdbscan::{DistanceMetric, Hdbscan, HdbscanHyperParams, NnAlgorithm};

/// Clusters of at least so many events of a group, each by position; what is in none lies alone.
pub(super) async fn clusters(events: &[SourceNode], events_min: usize) -> Result<Clusters, DomainError> {
    let least = events_min.max(2);
    let directions: Vec<Vec<f32>> = events.iter().filter_map(|event| direction(event.vector.as_deref()?)).collect();
    if directions.len() < least || directions.len() < events.len() {
        return Ok(Vec::new());
    }
    // It computes for seconds; others go on meanwhile.
    let labels = tokio::task::spawn_blocking(move || labels(&directions, least)).await;
    let labels = labels.map_err(|e| DomainError::internal(format!("clustering did not end: {e}")))??;
    let mut clusters: Clusters = Vec::new();
    for (at, label) in labels.iter().enumerate() {
        if let Ok(label) = usize::try_from(*label) {
            clusters.resize(clusters.len().max(label + 1), Vec::new());
            clusters[label].push(at);
        }
    }
    clusters.retain(|cluster| !cluster.is_empty());
    Ok(clusters)
}

fn labels(directions: &[Vec<f32>], least: usize) -> Result<Vec<i32>, DomainError> {
    let params = HdbscanHyperParams::builder()
        .min_cluster_size(least)
        // The point itself counts among its neighbours.
        .min_samples(least.min(directions.len()))
        .allow_single_cluster(true)
        // On directions the Euclidean distance orders as the cosine does.
        .dist_metric(DistanceMetric::Euclidean)
        // Trees do not help among hundreds of dimensions.
        .nn_algorithm(NnAlgorithm::BruteForce)
        .build();
    let clusterer = Hdbscan::new(directions, params);
    clusterer.cluster().map_err(|e| DomainError::internal(format!("clustering by density failed: {e:?}")))
}

/// The vector at length one.
fn direction(vector: &[f32]) -> Option<Vec<f32>> {
    let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
    length.is_normal().then(|| vector.iter().map(|x| x / length).collect())
}
