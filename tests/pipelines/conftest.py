"""What the tests of trainings share."""

from __future__ import annotations

import pytest

from pipelines.mini.packing import Packer, packer_for
from tests.conftest import small_model, small_tokenizer
from vzvideo.models.language import LanguageModel


@pytest.fixture
def packer() -> Packer:
    return packer_for(LanguageModel(small_model(), small_tokenizer()))
