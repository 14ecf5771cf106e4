from pipelines.corpus.prose import html_text, prose

PAGE = b"""<?xml version="1.0" encoding="UTF-8"?><!DOCTYPE html>
<html><head><title>Title</title><style>p {}</style></head><body>
<nav>Home</nav><div class="related" role="navigation">Next</div><script>let x;</script>
<div><h1>Vacuum<a class="headerlink" href="#x">#</a></h1>
Loose   text <em>in</em>line<!-- a comment -->
<p>One <b>two</b>
three.<br/>four</p><pre>
SELECT 1;
  SELECT 2;
</pre><ul><li>first</li><li>second</li></ul> last</div><footer>Copyright</footer></body></html>"""


def test_a_page_becomes_its_blocks() -> None:
    assert html_text(PAGE).split("\n\n") == [
        "Vacuum",
        "Loose text inline",
        "One two three. four",
        "SELECT 1;\n  SELECT 2;",
        "first",
        "second",
        "last",
    ]


def test_the_main_part_is_preferred() -> None:
    page = b"<body><div>menu</div><main><p>the <i>text</i></p>end</main></body>"
    assert html_text(page) == "the text\n\nend"
    assert html_text(b"<div>menu</div><div role='main'>text</div>") == "text"


def test_pages_without_text_and_fragments() -> None:
    assert html_text(b"") == ""
    assert html_text(b"<html><body></body></html>") == ""
    assert html_text(b"just text") == "just text"
    latin = b"<meta charset=iso-8859-1>" + "<p>Zoë</p>".encode("latin-1")
    assert html_text(latin) == "Zoë"


def test_prose_keeps_sentences_on_one_line() -> None:
    sentence = "A paragraph that reads like a sentence of English\nand is broken over two lines."
    table = "1 | 2 | 3 | 4 | 5 | 6 | 7 | 8 | 9 | 10 | 11 | 12 | 13 | 14 | 15 | 16 | 17 | 18"
    assert list(prose(f"{sentence}\n \nshort\n\n{table}")) == [sentence.replace("\n", " ")]
