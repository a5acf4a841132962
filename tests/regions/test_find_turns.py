import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from rest_trl.regions.partition import find_turns


masks = st.integers(0, 8).flatmap(lambda size: st.lists(st.lists(st.booleans(), min_size=size, max_size=size)))


class TestFindTurns:
    @given(masks=masks)
    def test_gives_every_run_of_the_mask_row_by_row(self, masks):
        policy = np.array(masks, bool).reshape(len(masks), len(masks[0]) if masks else 0)
        found = list(zip(*(ends.tolist() for ends in find_turns(policy)), strict=True))
        assert found == sorted(found)
        again = np.zeros_like(policy)
        for row, start, stop in found:
            assert start < stop and not again[row, max(0, start - 1) : stop + 1].any()  # two runs never touch
            again[row, start:stop] = True
        assert np.array_equal(again, policy)
