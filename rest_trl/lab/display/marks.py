"""Completions with their regions marked in plain text: the column `regions` of the tables that TRL logs."""

from codecs import getincrementaldecoder

import torch

from ...regions.token_bytes import TokenBytes
from ...tool_calls import Region
from .colors import COLORS


def mark_regions(
    completion_ids: torch.Tensor, completion_mask: torch.Tensor, region_ids: torch.Tensor, token_bytes: TokenBytes
) -> list[str]:
    """
    The text of completions, with a coloured square before every run of tokens of one region.

    Squares keep their colour wherever a table is shown: TRL prints, stores and uploads one and the same string, and it
    escapes markup in the terminal. Without the squares this is the text of the sampled ids; special tokens that are no
    markers of the syntax are left out. A character that is split over regions goes with its last token.

    Args:
        completion_ids (`torch.Tensor` of shape `(B, T)`):
            Sampled token ids.
        completion_mask (`torch.Tensor` of shape `(B, T)`):
            Zero at padding.
        region_ids (`torch.Tensor` of shape `(B, T)`):
            [`Region`] per token; `NONE` within the mask is what came from tools.
        token_bytes ([`~rest_trl.regions.token_bytes.TokenBytes`]):
            The bytes of the policy's tokens.

    Returns:
        `list[str]` of length `B`
    """
    token_bytes.cover(int(completion_ids.max()) if completion_ids.numel() else 0)
    marked = []
    for ids, regions, mask in zip(completion_ids.cpu(), region_ids.cpu(), completion_mask.cpu().bool(), strict=True):
        kept, values = ids[mask].numpy(), regions[mask]
        runs, lengths = torch.unique_consecutive(values, return_counts=True)
        decode = getincrementaldecoder("utf-8")("replace").decode
        text, start, last = "", 0, None
        for region, length in zip(runs.tolist(), lengths.tolist(), strict=True):
            run = decode(token_bytes.bytes(kept[start : start + length]))
            start += length
            if run:
                text += run if region == last else COLORS[Region(region)].square + run
                last = region
        marked.append(text + decode(b"", final=True))
    return marked
