"""Pictures are those that the source gives: the rooms by their imports, copies by their holders."""

from docs.images import elastic, rooms


def test_the_picture_of_the_rooms_is_today_s() -> None:
    hint = "draw it again: python -m docs.images.rooms"
    assert rooms.PICTURE.read_text(encoding="utf-8") == rooms.draw(), hint


def test_the_picture_of_a_loss_has_the_holders_of_today() -> None:
    hint = "draw it again: python -m docs.images.elastic"
    assert elastic.PICTURE.read_text(encoding="utf-8") == elastic.draw(), hint
