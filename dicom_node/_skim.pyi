def skim(
    data: bytes,
    position: int,
    most: int,
    implicit: bool,
    largest: int,
    wanted: bytes,
    stops: bytes,
    long_vrs: bytes,
    known_vrs: bytes,
    /,
) -> tuple[int, int, list[bytes], dict[int, bytes], bool]: ...
