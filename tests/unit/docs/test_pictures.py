"""The picture of the rooms is the one that the imports give, and all arrows in it go down."""

from docs.images import rooms


def test_the_picture_of_the_rooms_is_today_s() -> None:
    hint = "draw it again: python -m docs.images.rooms"
    assert rooms.PICTURE.read_text(encoding="utf-8") == rooms.draw(), hint
