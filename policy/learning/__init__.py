"""A batch becomes optimiser steps: policy and critic."""
