"""What the package exports, registered with the Auto classes of transformers.

Published checkpoints do not carry this file.
"""

from packaging.version import Version
from transformers import (
    AutoBackbone,
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForMaskedImageModeling,
    AutoModelForZeroShotImageClassification,
    AutoProcessor,
)
from transformers import __version__ as transformers_version

from .configuration_omni_vision import OmniVisionConfig
from .image_processing_omni_vision import ImageReadError, OmniVisionImageProcessor, OmniVisionImageProcessorPil
from .modeling_omni_vision import (
    OmniVisionBackbone,
    OmniVisionForImageClassification,
    OmniVisionForMaskedImageModeling,
    OmniVisionModel,
    OmniVisionModelOutput,
    OmniVisionPreTrainedModel,
)


# `register` makes the installed classes win over remote code; `register_for_auto_class` makes saving copy the code.
AutoConfig.register("omni_vision", OmniVisionConfig, exist_ok=True)
AutoModel.register(OmniVisionConfig, OmniVisionModel, exist_ok=True)
AutoBackbone.register(OmniVisionConfig, OmniVisionBackbone, exist_ok=True)
AutoModelForImageClassification.register(OmniVisionConfig, OmniVisionForImageClassification, exist_ok=True)
AutoModelForMaskedImageModeling.register(OmniVisionConfig, OmniVisionForMaskedImageModeling, exist_ok=True)
AutoImageProcessor.register(
    OmniVisionConfig,
    image_processor_classes={"pil": OmniVisionImageProcessorPil, "torchvision": OmniVisionImageProcessor},
    exist_ok=True,
)
OmniVisionConfig.register_for_auto_class()
OmniVisionModel.register_for_auto_class("AutoModel")
OmniVisionBackbone.register_for_auto_class("AutoBackbone")
OmniVisionForImageClassification.register_for_auto_class("AutoModelForImageClassification")
OmniVisionForMaskedImageModeling.register_for_auto_class("AutoModelForMaskedImageModeling")
OmniVisionImageProcessor.register_for_auto_class()
OmniVisionImageProcessorPil.register_for_auto_class()

__all__ = [
    "ImageReadError",
    "OmniVisionBackbone",
    "OmniVisionConfig",
    "OmniVisionForImageClassification",
    "OmniVisionForMaskedImageModeling",
    "OmniVisionImageProcessor",
    "OmniVisionImageProcessorPil",
    "OmniVisionModel",
    "OmniVisionModelOutput",
    "OmniVisionPreTrainedModel",
]

# The composite models need transformers 5.23; the encoder does not.
if Version(transformers_version) >= Version("5.23"):
    from transformers import AutoModelForImageTextToText, AutoModelForMultimodalLM

    from .configuration_omni_vision_language import OmniVisionLanguageConfig
    from .configuration_omni_vision_retrieval import OmniVisionRetrievalConfig
    from .configuration_omni_vision_vae import OmniVisionVAEConfig
    from .modeling_omni_vision_language import OmniVisionForConditionalGeneration, OmniVisionLanguageModel
    from .modeling_omni_vision_retrieval import OmniVisionForRetrieval, OmniVisionRetrievalOutput
    from .modeling_omni_vision_vae import OmniVisionVAE, OmniVisionVAEOutput
    from .processing_omni_vision_language import OmniVisionProcessor
    from .processing_omni_vision_retrieval import OmniVisionRetrievalProcessor

    AutoConfig.register("omni_vision_retrieval", OmniVisionRetrievalConfig, exist_ok=True)
    AutoModel.register(OmniVisionRetrievalConfig, OmniVisionForRetrieval, exist_ok=True)
    AutoModelForZeroShotImageClassification.register(OmniVisionRetrievalConfig, OmniVisionForRetrieval, exist_ok=True)
    AutoProcessor.register(OmniVisionRetrievalConfig, OmniVisionRetrievalProcessor, exist_ok=True)
    OmniVisionRetrievalConfig.register_for_auto_class()
    OmniVisionForRetrieval.register_for_auto_class("AutoModel")
    OmniVisionRetrievalProcessor.register_for_auto_class()

    AutoConfig.register("omni_vision_language", OmniVisionLanguageConfig, exist_ok=True)
    AutoModel.register(OmniVisionLanguageConfig, OmniVisionLanguageModel, exist_ok=True)
    AutoModelForImageTextToText.register(OmniVisionLanguageConfig, OmniVisionForConditionalGeneration, exist_ok=True)
    AutoModelForMultimodalLM.register(OmniVisionLanguageConfig, OmniVisionForConditionalGeneration, exist_ok=True)
    AutoProcessor.register(OmniVisionLanguageConfig, OmniVisionProcessor, exist_ok=True)
    OmniVisionLanguageConfig.register_for_auto_class()
    OmniVisionLanguageModel.register_for_auto_class("AutoModel")
    OmniVisionForConditionalGeneration.register_for_auto_class("AutoModelForImageTextToText")
    OmniVisionProcessor.register_for_auto_class()

    AutoConfig.register("omni_vision_vae", OmniVisionVAEConfig, exist_ok=True)
    AutoModel.register(OmniVisionVAEConfig, OmniVisionVAE, exist_ok=True)
    OmniVisionVAEConfig.register_for_auto_class()
    OmniVisionVAE.register_for_auto_class("AutoModel")
    __all__ += [
        "OmniVisionForConditionalGeneration",
        "OmniVisionForRetrieval",
        "OmniVisionLanguageConfig",
        "OmniVisionLanguageModel",
        "OmniVisionProcessor",
        "OmniVisionRetrievalConfig",
        "OmniVisionRetrievalOutput",
        "OmniVisionRetrievalProcessor",
        "OmniVisionVAE",
        "OmniVisionVAEConfig",
        "OmniVisionVAEOutput",
    ]
