"""Who has computed the longest beginning, and who is to answer."""

from pipelines.serving.replicas.affinity import Affinity, preferred


def test_the_longest_beginning_counts() -> None:
    affinity = Affinity[str]()
    affinity.note([b"1", b"2"], "a")
    affinity.note([b"1", b"2", b"3"], "b")
    assert affinity.find([b"1", b"2", b"3", b"4"], "ab") == {"b"}
    assert affinity.find([b"1", b"2", b"9"], "ab") == {"a", "b"}
    assert affinity.find([b"9"], "ab") == set()
    assert affinity.find([], "ab") == set()


def test_who_has_gone_is_forgotten() -> None:
    affinity = Affinity[str]()
    affinity.note([b"1", b"2"], "a")
    affinity.note([b"1"], "b")
    assert affinity.find([b"1", b"2"], "b") == {"b"}
    assert affinity.find([b"1", b"2"], "ab") == {"b"}


def test_what_was_used_least_recently_is_forgotten_first() -> None:
    affinity = Affinity[str](most=2)
    affinity.note([b"1"], "a")
    affinity.note([b"2"], "a")
    affinity.note([b"1"], "b")
    affinity.note([b"3"], "a")
    assert affinity.find([b"2"], "ab") == set()
    assert affinity.find([b"1"], "ab") == {"a", "b"}


def test_who_has_much_more_to_do_than_others_is_passed_over() -> None:
    load = {"a": 5, "b": 3, "c": 1}.__getitem__
    assert preferred({"a", "b"}, "abc", load, slack=2) == "b"
    assert preferred({"a"}, "abc", load, slack=4) == "a"
    assert preferred({"a"}, "abc", load, slack=3) is None
    assert preferred(set[str](), "abc", load, slack=3) is None
