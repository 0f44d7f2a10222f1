// backfill writes blocks of Prometheus' TSDB from columns: what `promtool tsdb create-blocks-from openmetrics` does,
// without text in between, which takes most of its time (a fleet of weeks is hundreds of millions of samples).
//
// On standard input, little-endian, one window of time after the other, each of which becomes one block:
//
//	uint32 points, int64[points] times in milliseconds; 0 points end the input
//	then series: uint32 bytes of labels (0 ends the window), the labels as name NUL value NUL ..., sorted by name,
//	uint32 first point, uint32 values, uint32 points from one value to the next, float64[values] values
//
// It refuses nothing that the TSDB takes, and stops at the first error.
package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"os"
	"strings"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/tsdb"
)

const (
	mostPoints  = 1 << 20
	mostLabels  = 1 << 16
	commitAfter = 200_000
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: backfill FOLDER < COLUMNS")
		os.Exit(2)
	}
	samples, err := fill(os.Args[1], bufio.NewReaderSize(os.Stdin, 1<<20))
	if err != nil {
		fmt.Fprintf(os.Stderr, "error: %v\n", err)
		os.Exit(1)
	}
	fmt.Println(samples)
}

func fill(folder string, input io.Reader) (int, error) {
	total := 0
	for {
		points, err := size(input, mostPoints)
		if err != nil || points == 0 {
			return total, err
		}
		times := make([]int64, points)
		if err := binary.Read(input, binary.LittleEndian, times); err != nil {
			return total, err
		}
		written, err := window(folder, input, times)
		total += written
		if err != nil {
			return total, err
		}
	}
}

// window writes one block.
func window(folder string, input io.Reader, times []int64) (written int, err error) {
	// Twice its length: a head refuses what is older than half its range, and series come one after the other.
	writer, err := tsdb.NewBlockWriter(slog.New(slog.DiscardHandler), folder, 2*(times[len(times)-1]-times[0]+1))
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, writer.Close()) }()
	ctx := context.Background()
	appender := writer.Appender(ctx)
	pending := 0
	raw := make([]byte, 8*len(times))
	for {
		own, place, err := header(input, len(times))
		if err != nil {
			return written, err
		}
		if own.IsEmpty() {
			break
		}
		if _, err := io.ReadFull(input, raw[:8*place.count]); err != nil {
			return written, err
		}
		for point := range place.count {
			value := math.Float64frombits(binary.LittleEndian.Uint64(raw[8*point:]))
			if _, err := appender.Append(0, own, times[place.first+point*place.stride], value); err != nil {
				return written, fmt.Errorf("%s: %w", own, err)
			}
		}
		written += place.count
		if pending += place.count; pending >= commitAfter {
			if err := appender.Commit(); err != nil {
				return written, err
			}
			appender, pending = writer.Appender(ctx), 0
		}
	}
	if err := appender.Commit(); err != nil {
		return written, err
	}
	if written > 0 {
		if _, err := writer.Flush(ctx); err != nil {
			return written, err
		}
	}
	return written, nil
}

// place is where the values of a series lie in its window.
type place struct{ first, count, stride int }

// header reads what stands before a series' values; empty labels end the window.
func header(input io.Reader, points int) (labels.Labels, place, error) {
	length, err := size(input, mostLabels)
	if err != nil || length == 0 {
		return labels.EmptyLabels(), place{}, err
	}
	text := make([]byte, length)
	if _, err := io.ReadFull(input, text); err != nil {
		return labels.EmptyLabels(), place{}, err
	}
	var own place
	for _, part := range []*int{&own.first, &own.count, &own.stride} {
		if *part, err = size(input, points); err != nil {
			return labels.EmptyLabels(), place{}, err
		}
	}
	if own.count > 0 && own.first+(own.count-1)*own.stride >= points {
		return labels.EmptyLabels(), place{}, fmt.Errorf("%d values from point %d on where %d fit", own.count, own.first, points)
	}
	parts := strings.Split(strings.TrimSuffix(string(text), "\x00"), "\x00")
	if len(parts)%2 != 0 {
		return labels.EmptyLabels(), place{}, fmt.Errorf("labels in %d parts", len(parts))
	}
	return labels.FromStrings(parts...), own, nil
}

// size reads a count that may not exceed most.
func size(input io.Reader, most int) (int, error) {
	var count uint32
	if err := binary.Read(input, binary.LittleEndian, &count); err != nil {
		return 0, err
	}
	if int(count) > most {
		return 0, fmt.Errorf("a count of %d where at most %d fit", count, most)
	}
	return int(count), nil
}
