"""A trainer of TRL that shares prompts, for tests of that alone."""

from peft import PeftModel
from trl import GRPOTrainer

from rest_trl.shared_prompts.passes import SharedPrompts, prefilled_generation, whole_groups


class SharingTrainer(GRPOTrainer):
    def __init__(self, *args, share_prompts="true", **kwargs):
        super().__init__(*args, **kwargs)
        model = self.accelerator.unwrap_model(self.model)
        models = [model.get_base_model() if isinstance(model, PeftModel) else model]
        models += [] if self.ref_model is None else [self.accelerator.unwrap_model(self.ref_model)]
        self.shared_prompts = SharedPrompts(share_prompts, models, self.accelerator, {})

    def _get_per_token_logps_and_entropies(
        self,
        model,
        input_ids,
        attention_mask,
        logits_to_keep,
        batch_size=None,
        compute_entropy=False,
        compute_aux_loss=False,
        **images,
    ):
        return self.shared_prompts.scores(
            super()._get_per_token_logps_and_entropies,
            model,
            input_ids,
            attention_mask,
            logits_to_keep,
            batch_size,
            compute_entropy,
            compute_aux_loss,
        )

    def _prepare_inputs(self, generation_batch):
        buffered = self._buffered_inputs
        inputs = super()._prepare_inputs(generation_batch)
        if self._buffered_inputs is buffered or not self.shared_prompts.is_on:
            return inputs
        self._buffered_inputs = whole_groups(self._buffered_inputs)
        return self._buffered_inputs[self._step % self.args.steps_per_generation]

    def _generate_single_turn(self, *args, **kwargs):
        with prefilled_generation(self.accelerator.unwrap_model(self.model_wrapped)):
            return super()._generate_single_turn(*args, **kwargs)
