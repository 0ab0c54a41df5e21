"""Take images, audio and videos into a prompt: fetched, checked, and handed to the engine's renderer.

Nothing here knows the engine or HTTP's server side. A request that has media is checked otherwise first, then fetched.
"""

from lmi_chat.media.access import MediaAccess
from lmi_chat.media.fetcher import Fetcher
from lmi_chat.media.items import MediaItem, MediaPrompt, MediaRenderer, Room
from lmi_chat.media.preparation import Media

__all__ = ["Fetcher", "Media", "MediaAccess", "MediaItem", "MediaPrompt", "MediaRenderer", "Room"]
