package object

import (
	"os"
	"syscall"
)

// beginWriteback starts writing a range of f to the disk and does not wait. Its
// error is of no use: the fsync that follows has it.
func beginWriteback(f *os.File, from, n int64) {
	const write = 2 // SYNC_FILE_RANGE_WRITE
	syscall.SyncFileRange(int(f.Fd()), from, n, write)
}
