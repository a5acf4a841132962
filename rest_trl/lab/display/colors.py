"""The colours of the regions, in one table for the terminal, the page, the curves and the tables that TRL logs."""

from typing import NamedTuple

from ...tool_calls import Region


class RegionColors(NamedTuple):
    """
    How one region is shown: rich's style in a terminal, backgrounds of its tokens on a light and a dark page, the
    colour of its curves on white, and the character that stands before it in plain text.
    """

    terminal: str
    light: str
    dark: str
    line: str
    square: str


# Colours of the text on the pages. Its contrast with every background is at least 7 (WCAG AAA).
TEXT_ON_LIGHT = "#1a1a1a"
TEXT_ON_DARK = "#f2f2f2"

# One hue per region. Unicode has no cyan square, so the format region has a white one.
COLORS: dict[Region, RegionColors] = {
    Region.NONE: RegionColors("dim", "#eeeeee", "#3a3a3a", "#6e6e6e", "⬛"),
    Region.FORMAT: RegionColors("cyan", "#b3ecf2", "#0a4d55", "#07808f", "⬜"),
    Region.TOOL_NAME: RegionColors("bold magenta", "#f5b8e0", "#6d1c54", "#b8308f", "🟪"),
    Region.PARAMETERS: RegionColors("green", "#bdebb5", "#1d5216", "#2b8420", "🟩"),
    Region.REASONING: RegionColors("yellow", "#fbeaa6", "#594700", "#a07800", "🟨"),
    Region.RESPONSE: RegionColors("blue", "#c3d4fb", "#21407f", "#3c63d0", "🟦"),
}
