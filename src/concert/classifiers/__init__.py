"""Classifiers: networks from (B, C, H, W) images in [0, 1] to (B, K) logits."""

from concert.classifiers.build import CLASSIFIERS, build_classifier, build_denoiser
from concert.classifiers.cifar_resnet import CifarResNet
from concert.classifiers.denoised import Denoised, DnCNN
from concert.classifiers.lenet import LeNet
from concert.classifiers.normalize import Normalize
from concert.classifiers.resnet50 import ResNet50

__all__ = [
    "CLASSIFIERS",
    "CifarResNet",
    "Denoised",
    "DnCNN",
    "LeNet",
    "Normalize",
    "ResNet50",
    "build_classifier",
    "build_denoiser",
]
