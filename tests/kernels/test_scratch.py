from pyimgano._kernels.scratch import aligned, scratch


def test_arrays_begin_with_a_line_of_the_cache_and_do_not_overlap():
    for size in (1, 15, 16, 1000, 100_001):
        assert aligned(size).ctypes.data % 64 == 0
        one, two = scratch(size, 27)
        assert (len(one), len(two)) == (size, 27)
        assert one.ctypes.data % 64 == two.ctypes.data % 64 == 0
        one[:], two[:] = 1, 2
        assert (one == 1).all()
        assert scratch(size)[0].ctypes.data == one.ctypes.data  # the memory is kept
