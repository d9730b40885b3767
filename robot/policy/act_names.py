"""The names of ACT's published weights: of its authors and of LeRobot.

Authors: github.com/tonyzhaozh/act, whose files carry `model.` in front of every key. LeRobot:
github.com/huggingface/lerobot, which pads its files with the same word and kept the parts of a layer.
"""

from __future__ import annotations

from vision.checkpoints.detr_names import LAYER_RENAMES
from vision.checkpoints.key_map import KeyMap
from vision.checkpoints.resnet_names import plain_renames

ACT_KEYS = KeyMap(
    renames=(
        *plain_renames("backbones.0.0.body."),
        *LAYER_RENAMES,
        (r"^project_image\.", "input_proj."),
        (r"^embed_state\.", "input_proj_robot_state."),
        (r"^embed_latent\.", "latent_out_proj."),
        (r"^token_positions\.", "additional_pos_embed."),
        (r"^queries\.", "query_embed."),
        (r"^predict_action\.", "action_head."),
        (r"^predict_padding\.", "is_pad_head."),
        (r"^(encoder|decoder)\.(\d+)\.", r"transformer.\1.layers.\2."),
        (r"^decoder_norm\.", "transformer.decoder.norm."),
        (r"^latent_encoder\.summary\.", "cls_embed."),
        (r"^latent_encoder\.embed_state\.", "encoder_joint_proj."),
        (r"^latent_encoder\.embed_action\.", "encoder_action_proj."),
        (r"^latent_encoder\.predict_posterior\.", "latent_proj."),
        (r"^latent_encoder\.layers\.", "encoder.layers."),
    ),
    ignored=("pos_table",),
    respelt=((r"^model\.", ""),),
)
"""The authors'."""

LEROBOT_KEYS = KeyMap(
    renames=(
        *plain_renames("model.backbone."),
        *LAYER_RENAMES,
        (r"^project_image\.", "model.encoder_img_feat_input_proj."),
        (r"^embed_state\.", "model.encoder_robot_state_input_proj."),
        (r"^embed_environment\.", "model.encoder_env_state_input_proj."),
        (r"^embed_latent\.", "model.encoder_latent_input_proj."),
        (r"^token_positions\.", "model.encoder_1d_feature_pos_embed."),
        (r"^queries\.", "model.decoder_pos_embed."),
        (r"^predict_action\.", "model.action_head."),
        (r"^(encoder|decoder)\.(\d+)\.", r"model.\1.layers.\2."),
        (r"^decoder_norm\.", "model.decoder.norm."),
        (r"^latent_encoder\.summary\.", "model.vae_encoder_cls_embed."),
        (r"^latent_encoder\.embed_state\.", "model.vae_encoder_robot_state_input_proj."),
        (r"^latent_encoder\.embed_action\.", "model.vae_encoder_action_input_proj."),
        (r"^latent_encoder\.predict_posterior\.", "model.vae_encoder_latent_output_proj."),
        (r"^latent_encoder\.layers\.", "model.vae_encoder.layers."),
    ),
    ignored=(r"model\.vae_encoder_pos_enc",),
)
"""LeRobot's; files of its versions before 0.4 also hold the normalisation, which is read apart."""
