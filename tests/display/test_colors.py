from itertools import combinations

import pytest
from rich.style import Style

from rest_trl.lab.display.colors import COLORS, TEXT_ON_DARK, TEXT_ON_LIGHT
from rest_trl.tool_calls import Region


def luminance(color):
    channels = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


class TestColors:
    def test_are_of_every_region(self):
        assert COLORS.keys() == set(Region)
        for colors in COLORS.values():
            Style.parse(colors.terminal)

    @pytest.mark.parametrize("region", Region, ids=lambda region: region.name)
    def test_have_a_high_contrast(self, region):
        assert contrast(COLORS[region].light, TEXT_ON_LIGHT) >= 7
        assert contrast(COLORS[region].dark, TEXT_ON_DARK) >= 7
        assert contrast(COLORS[region].line, "#ffffff") >= 3

    def test_tell_the_regions_apart(self):
        for one, other in combinations(COLORS.values(), 2):
            assert all(a != b for a, b in zip(one, other, strict=True))
