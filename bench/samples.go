package main

import (
	"fmt"
	"math"
	"slices"
)

// samples are measured values, by row of a table and by quantity. There is one value for
// each repetition.
type samples struct {
	rows   []string // in order; the others are compared with the first one
	values map[string]map[string][]float64
}

func newSamples(rows ...string) *samples {
	return &samples{rows, make(map[string]map[string][]float64)}
}

func (s *samples) add(row, quantity string, v float64) {
	if s.values[row] == nil {
		s.values[row] = make(map[string][]float64)
	}
	s.values[row][quantity] = append(s.values[row][quantity], v)
}

// median returns NaN if nothing was measured.
func (s *samples) median(row, quantity string) float64 {
	return quantile(s.values[row][quantity], 0.5)
}

// A spread is a median and half the interquartile range in percent of it.
type spread struct{ median, half float64 }

func (s spread) String() string {
	if math.IsNaN(s.median) {
		return none
	}
	return fmt.Sprintf("%.2f ±%.0f", s.median, s.half)
}

// ratio compares two rows repetition by repetition. A disturbance of a whole repetition
// affects both rows.
func (s *samples) ratio(row, base, quantity string) spread {
	var ratios []float64
	for i, v := range s.values[row][quantity] {
		if of := s.values[base][quantity]; i < len(of) && of[i] > 0 {
			ratios = append(ratios, v/of[i])
		}
	}
	return spreadAmong(ratios)
}

func spreadAmong(of []float64) spread {
	m := quantile(of, 0.5)
	return spread{m, (quantile(of, 0.75) - quantile(of, 0.25)) / 2 / m * 100}
}

// quantile interpolates between the two nearest values.
func quantile(of []float64, q float64) float64 {
	if len(of) == 0 {
		return math.NaN()
	}
	sorted := slices.Sorted(slices.Values(of))
	at := q * float64(len(sorted)-1)
	below := int(at)
	above := min(below+1, len(sorted)-1)
	return sorted[below] + (at-float64(below))*(sorted[above]-sorted[below])
}
