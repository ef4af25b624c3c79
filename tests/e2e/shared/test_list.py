"""The list: pages, order, filter."""

import pytest

from lab.sdk import Leap0Client


@pytest.fixture(scope="module")
def three(server):
    with Leap0Client() as client:
        made = [client.sandboxes.create() for _ in range(3)]
        yield [sandbox.id for sandbox in made]
        for sandbox in made:
            sandbox.delete()


def ids(answer) -> list[str]:
    assert answer.status_code == 200, answer.text
    return [item["id"] for item in answer.json()["items"]]


def test_the_newest_is_first_unless_asked_otherwise(api, three):
    newest_first = [i for i in ids(api.get("/v1/sandboxes")) if i in three]
    oldest_first = [i for i in ids(api.get("/v1/sandboxes?sort=created_at&order-by=asc")) if i in three]
    assert newest_first == three[::-1]
    assert oldest_first == three


def test_pages_do_not_overlap_and_the_total_counts_all_of_them(api, three):
    whole = api.get("/v1/sandboxes?page-size=100").json()
    seen = []
    for page in range(1, whole["total_items"] + 1):
        answer = api.get(f"/v1/sandboxes?page={page}&page-size=1")
        assert answer.json()["total_items"] == whole["total_items"]
        seen += ids(answer)
    assert seen == [item["id"] for item in whole["items"]]
    assert set(three) <= set(seen)
    assert ids(api.get(f"/v1/sandboxes?page={whole['total_items'] + 1}&page-size=1")) == []


def test_a_state_filter_shows_that_state_only(api, three):
    assert set(three) <= set(ids(api.get("/v1/sandboxes?state=running&page-size=100")))
    assert not set(three) & set(ids(api.get("/v1/sandboxes?state=paused&page-size=100")))


def test_sorting_by_state_is_accepted_in_both_directions(api, three):
    for direction in ("asc", "desc"):
        assert set(three) <= set(ids(api.get(f"/v1/sandboxes?sort=state&order-by={direction}&page-size=100")))
