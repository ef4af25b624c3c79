//! Every combination of filter, sort, direction and page size against a sorted vector.

#![allow(clippy::unwrap_used)]

mod common;

use common::{every_status, fixture, sandbox, spec};
use leapbox_api_types::sandbox::{SandboxListQuery, SandboxSort, SandboxState, SortOrder};
use leapbox_db::{Sandbox, Spec};
use std::sync::Arc;

const PER_STATUS: usize = 4;

fn model(rows: &[Sandbox], query: &SandboxListQuery) -> Vec<Sandbox> {
    let mut rows: Vec<_> = rows
        .iter()
        .filter(|row| row.state() != SandboxState::Deleted && query.state.is_none_or(|state| state == row.state()))
        .cloned()
        .collect();
    rows.sort_by(|a, b| {
        let key = match query.sort {
            SandboxSort::CreatedAt => a.spec.created_at_ms.cmp(&b.spec.created_at_ms),
            SandboxSort::State => a.state().as_str().cmp(b.state().as_str()),
        };
        let ascending = key.then_with(|| a.id().cmp(b.id()));
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
    let template = fixture.template("t").await;
    let mut rows = Vec::new();
    let statuses = every_status();
    let count = PER_STATUS * statuses.len();
    for (index, status) in statuses.into_iter().cycle().take(count).enumerate() {
        // Few distinct times, so that the tie-break is needed.
        let created_at_ms = i64::try_from(index % 4).unwrap();
        let spec = Arc::new(Spec { created_at_ms, ..spec(&organisation, &template) });
        let row = Sandbox { spec, status: status.clone(), ..sandbox(&organisation, &template) };
        fixture.db.sandbox_insert(&row).await.unwrap();
        fixture.db.sandbox_insert(&Sandbox { status, ..sandbox(&stranger, &template) }).await.unwrap();
        rows.push(row);
    }
    let states = std::iter::once(None).chain(SandboxState::ALL.map(Some));
    for state in states {
        for sort in [SandboxSort::CreatedAt, SandboxSort::State] {
            for order in [SortOrder::Ascending, SortOrder::Descending] {
                for page_size in [1, 7, 100] {
                    let mut query = SandboxListQuery { state, sort, order, page: 1, page_size };
                    let expected = model(&rows, &query);
                    let mut found = Vec::new();
                    loop {
                        let (page, total) = fixture.db.sandbox_list(&organisation, &query).await.unwrap();
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
    fixture.db.sandbox_insert(&sandbox(&organisation, &template)).await.unwrap();
    let query = SandboxListQuery {
        state: None,
        sort: SandboxSort::CreatedAt,
        order: SortOrder::Descending,
        page: u64::MAX,
        page_size: 100,
    };
    let (page, total) = fixture.db.sandbox_list(&organisation, &query).await.unwrap();
    assert_eq!((page.len(), total), (0, 1));
}
