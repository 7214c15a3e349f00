"""The example of a methods text in the documentation is what the code writes."""

from __future__ import annotations

import pytest

from kwneuro_assets_tests.docs.methods_example import PAGE, updated

if not PAGE.is_file():
    pytest.skip("the documents are not installed with the package", allow_module_level=True)


def test_the_example_of_a_methods_text_is_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == updated(), "run python -m kwneuro_assets_tests.docs.methods_example"
