"""What a process that a test starts does with images in memory."""

from pathlib import Path


def write_and_tell(images, queue):
    """Change the first image where it lies, and tell the pixels of the last and the file that they are mapped from."""
    images._memory[0] = 7
    lines = Path("/proc/self/maps").read_text().splitlines()
    mapped = {line.split()[4] for line in lines if "omni_vision_images_" in line}
    queue.put((images[len(images) - 1]["image"].flatten().tolist(), sorted(mapped)))
