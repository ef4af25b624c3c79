"""The list: filter, order and page reach the database, where `crates/db/tests/sandbox_list.rs` tries all of them."""

import httpx
import pytest

from lab import patience


@pytest.fixture
def lister(server):
    """Plain HTTP with the key of an organisation that has no other sandboxes."""
    headers = {"authorization": server.create_key("lister")}
    with httpx.Client(base_url=f"http://{server.api_address}", headers=headers, timeout=patience(60)) as made:
        yield made


@pytest.fixture
def three(lister):
    """Its three sandboxes, the oldest first; the second is paused."""
    made = []
    try:
        for _ in range(3):
            answer = lister.post("/v1/sandbox", json={"timeout": 3600})
            assert answer.status_code == 201, answer.text
            made.append(answer.json()["id"])
        paused = lister.post(f"/v1/sandbox/{made[1]}/pause")
        assert paused.status_code == 201, paused.text
        yield made
    finally:
        gone = [lister.delete(f"/v1/sandbox/{each}").status_code for each in made]
    assert gone == [204] * 3


def test_a_list_is_filtered_sorted_and_cut_into_pages_as_asked(lister, three):
    def found(query: str = "") -> tuple[list[str], int]:
        answer = lister.get(f"/v1/sandboxes?{query}")
        assert answer.status_code == 200, answer.text
        page = answer.json()
        return [item["id"] for item in page["items"]], page["total_items"]

    first, paused, last = three
    running = sorted([first, last])
    assert found() == (three[::-1], 3), "the newest is first unless asked otherwise"
    assert found("sort=created_at&order-by=asc") == (three, 3)
    assert found("state=paused") == ([paused], 1)
    assert found("state=running&order-by=asc") == ([first, last], 2)
    assert found("state=stopped") == ([], 0)
    # By the state's name; those of one state by their ids.
    assert found("sort=state&order-by=asc") == ([paused, *running], 3)
    assert found("sort=state&order-by=desc") == ([*running[::-1], paused], 3)
    assert found("page=1&page-size=2") == ([last, paused], 3)
    assert found("page=2&page-size=2") == ([first], 3)
    assert found("page=3&page-size=2") == ([], 3)
