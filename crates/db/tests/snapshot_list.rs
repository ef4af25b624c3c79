//! Every combination of filter, sort, direction and page size against a sorted vector.

#![allow(clippy::unwrap_used)]

mod common;

use common::{fixture, snapshot};
use leapbox_api_types::sandbox::SortOrder;
use leapbox_api_types::snapshot::{SnapshotListQuery, SnapshotSort};
use leapbox_db::SnapshotRow;

const NAMES: [&str; 9] =
    ["warm", "Warm-2", "cold", "100%", "100 of 100", "a_b", "aXb", r"back\slash", "warm_100%_überall"];

fn model(rows: &[SnapshotRow], query: &SnapshotListQuery) -> Vec<SnapshotRow> {
    let wanted = query.name.clone().unwrap_or_default().to_lowercase();
    let mut rows: Vec<_> = rows.iter().filter(|row| row.name.to_lowercase().contains(&wanted)).cloned().collect();
    rows.sort_by(|a, b| {
        let key = match query.sort {
            SnapshotSort::CreatedAt => a.created_at_ms.cmp(&b.created_at_ms),
            SnapshotSort::Template => a.template.cmp(&b.template),
        };
        let ascending = key.then_with(|| a.id.cmp(&b.id));
        match query.order {
            SortOrder::Ascending => ascending,
            SortOrder::Descending => ascending.reverse(),
        }
    });
    rows
}

#[tokio::test]
async fn pages_put_together_are_the_whole_sorted_list_without_gaps_or_overlaps() {
    let fixture = fixture().await;
    let organisation = fixture.organisation("acme").await;
    let stranger = fixture.organisation("stranger").await;
    let templates = [fixture.template("t").await, fixture.template("u").await];
    let mut rows = Vec::new();
    for (index, name) in NAMES.into_iter().enumerate() {
        // Few distinct times and templates, so that the tie-break is needed.
        let created_at_ms = i64::try_from(index % 3).unwrap();
        let row = SnapshotRow { created_at_ms, ..snapshot(&organisation, &templates[index % 2], name) };
        fixture.db.snapshot_insert(&row).await.unwrap();
        fixture.db.snapshot_insert(&snapshot(&stranger, &templates[0], name)).await.unwrap();
        rows.push(row);
    }
    for name in [None, Some("warm"), Some("WARM"), Some("100%"), Some("_"), Some(r"\"), Some("über"), Some("none")] {
        for sort in [SnapshotSort::CreatedAt, SnapshotSort::Template] {
            for order in [SortOrder::Ascending, SortOrder::Descending] {
                for page_size in [1, 4, 100] {
                    let name = name.map(str::to_owned);
                    let mut query = SnapshotListQuery { name, sort, order, page: 1, page_size };
                    let expected = model(&rows, &query);
                    let mut found = Vec::new();
                    loop {
                        let (page, total) = fixture.db.snapshot_list(&organisation, &query).await.unwrap();
                        assert_eq!(total, expected.len() as u64, "{query:?}");
                        assert!(page.len() as u64 <= page_size);
                        if page.is_empty() {
                            break;
                        }
                        found.extend(page);
                        query.page += 1;
                    }
                    assert_eq!(found, expected, "{query:?}");
                }
            }
        }
    }
}

#[tokio::test]
async fn a_page_far_past_the_end_is_empty_and_still_tells_the_total() {
    let fixture = fixture().await;
    let organisation = fixture.organisation("acme").await;
    let template = fixture.template("t").await;
    fixture.db.snapshot_insert(&snapshot(&organisation, &template, "warm")).await.unwrap();
    let query = SnapshotListQuery {
        name: None,
        sort: SnapshotSort::CreatedAt,
        order: SortOrder::Descending,
        page: u64::MAX,
        page_size: 100,
    };
    let (page, total) = fixture.db.snapshot_list(&organisation, &query).await.unwrap();
    assert_eq!((page.len(), total), (0, 1));
}
